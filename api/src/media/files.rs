//! Files by path: announced, written, read, collected.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use guildhall_shared::{Id, id::marker::Attachment};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, buffered::BufWriter, path::Path,
};
use sqlx::PgExecutor;
use tokio::{io::AsyncWriteExt, time::timeout};

use super::Media;
use crate::error::{Error, Result};

/// An announced file that no row shows goes after this. Longer than any request.
pub(crate) const LEASE: Duration = Duration::from_secs(3600);
/// A file given up by its request goes after this: statements under way are over by then.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// Files collected in one transaction.
const COLLECT_MAX: i64 = 100;
/// The store has this long to remove them. Postgres ends a transaction that does nothing for three
/// seconds, and its locks with it: a removal tried later could hit a file that is shown again.
const REMOVE_MAX: Duration = Duration::from_secs(2);
/// Bytes on their way to the store, per file.
const WRITE_BUFFER: usize = 5 << 20;

/// A file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) content_type: String,
    pub(crate) size: u64,
    pub(crate) width: Option<u32>,
    pub(crate) height: Option<u32>,
}

struct FileRow {
    path: String,
    content_type: String,
    size: i64,
    width: Option<i32>,
    height: Option<i32>,
}

impl From<FileRow> for File {
    fn from(row: FileRow) -> Self {
        Self {
            path: row.path,
            content_type: row.content_type,
            size: row.size as u64,
            width: row.width.map(|width| width as u32),
            height: row.height.map(|height| height as u32),
        }
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        tracing::warn!(%error, "the object store failed");
        Self::Unavailable("the object store does not answer")
    }
}

impl Media {
    /// Announces a file: from here on it is collected unless a row shows it in time.
    pub(crate) async fn announce(&self, path: &str, lease: Duration) -> Result<()> {
        // Of a file that is there already (same image, same place) only the lease is renewed.
        sqlx::query!(
            "insert into media_file (path, content_type, size, collect_at)
             values ($1, 'application/octet-stream', 0, now() + $2::float8 * interval '1 second')
             on conflict (path) do update set collect_at =
               case when media_file.uses = 0 then excluded.collect_at end",
            path,
            lease.as_secs_f64(),
        )
        .execute(&self.db)
        .await?;
        Ok(())
    }

    /// Says what an announced file turned out to be. Errors: 503 if it was collected meanwhile.
    pub(crate) async fn describe(&self, file: &File) -> Result<()> {
        let described = sqlx::query!(
            "update media_file set content_type = $2, size = $3, width = $4, height = $5
             where path = $1",
            file.path,
            file.content_type,
            file.size as i64,
            file.width.map(|width| width as i32),
            file.height.map(|height| height as i32),
        )
        .execute(&self.db)
        .await?;
        if described.rows_affected() == 0 {
            return Err(Error::Unavailable("the upload took too long"));
        }
        Ok(())
    }

    /// Keeps a whole file: announced, written, described. The caller's row then shows it.
    pub(crate) async fn put(&self, file: &File, content: Bytes) -> Result<()> {
        self.announce(&file.path, LEASE).await?;
        self.store
            .put(&Path::from(file.path.as_str()), content.into())
            .await?;
        self.describe(file).await
    }

    /// Writes an announced file piece by piece. Errors of the source end it, and nothing is
    /// left under the path.
    pub(crate) fn writer(&self, path: &str) -> Writer {
        let writer = BufWriter::with_capacity(self.store.clone(), path.into(), WRITE_BUFFER);
        Writer {
            writer: writer.with_max_concurrency(1),
            size: 0,
        }
    }

    /// A file that may be shown; `None` if there is none, or it is about to go.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<File>> {
        let row = sqlx::query_as!(
            FileRow,
            "select path, content_type, size, width, height from media_file
             where path = $1 and (uses > 0 or collect_at > now())",
            path,
        )
        .fetch_optional(&self.db)
        .await?;
        Ok(row.map(File::from))
    }

    /// Whether some row shows it.
    pub(crate) async fn is_used(&self, path: &str) -> Result<bool> {
        let uses = sqlx::query_scalar!("select uses from media_file where path = $1", path)
            .fetch_optional(&self.db)
            .await?;
        Ok(uses.unwrap_or_default() > 0)
    }

    /// Renews the lease of an unused file. `None` if there is none, or a row shows it already.
    pub(crate) async fn renew(&self, path: &str) -> Result<Option<File>> {
        let row = sqlx::query_as!(
            FileRow,
            "update media_file set collect_at = now() + $2::float8 * interval '1 second'
             where path = $1 and uses = 0 and collect_at > now()
             returning path, content_type, size, width, height",
            path,
            LEASE.as_secs_f64(),
        )
        .fetch_optional(&self.db)
        .await?;
        Ok(row.map(File::from))
    }

    /// Puts a file into an upload slot. What was in it before goes soon, unless a row shows it.
    pub(crate) async fn fill_slot(&self, slot: Id<Attachment>, path: &str) -> Result<()> {
        // A message that has just claimed an older one is stored or refused by then.
        sqlx::query!(
            "with filled as (update media_file set slot = $1 where path = $2::text)
             update media_file
             set collect_at = least(collect_at, now() + $3::float8 * interval '1 second')
             where slot = $1 and uses = 0
               and (length(path), path) < (length($2::text), $2::text)",
            slot.to_db(),
            path,
            GIVEN_UP.as_secs_f64(),
        )
        .execute(&self.db)
        .await?;
        Ok(())
    }

    /// Whether some row shows a file that came through an upload slot.
    pub(crate) async fn is_spent(&self, slot: Id<Attachment>) -> Result<bool> {
        let spent = sqlx::query_scalar!(
            r#"select exists (select from media_file where slot = $1 and uses > 0) as "spent!""#,
            slot.to_db(),
        )
        .fetch_one(&self.db)
        .await?;
        Ok(spent)
    }

    /// The newest file of an upload slot, its lease renewed. `None` if there is none, or the slot
    /// is spent.
    pub(crate) async fn claim(&self, slot: Id<Attachment>) -> Result<Option<File>> {
        let row = sqlx::query_as!(
            FileRow,
            "update media_file set collect_at = now() + $2::float8 * interval '1 second'
             where path = (
                 select path from media_file where slot = $1 and collect_at > now()
                 order by length(path) desc, path desc limit 1)
               and uses = 0
               and not exists (
                 select from media_file shown where shown.slot = $1 and shown.uses > 0)
             returning path, content_type, size, width, height",
            slot.to_db(),
            LEASE.as_secs_f64(),
        )
        .fetch_optional(&self.db)
        .await?;
        Ok(row.map(File::from))
    }

    /// A whole file, for files that are known to be small.
    pub(crate) async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        match self.store.get(&path.into()).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes of a file as they come; all of them without a range.
    pub(crate) async fn stream(
        &self,
        path: &str,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<Option<BoxStream<'static, object_store::Result<Bytes>>>> {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        match self.store.get_opts(&path.into(), options).await {
            Ok(found) => Ok(Some(found.into_stream())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets files go soon that no row shows; those that are shown stay.
    pub(crate) async fn give_up(&self, paths: &[String]) -> Result<()> {
        give_up(&self.db, paths).await
    }
}

pub(super) async fn give_up(db: impl PgExecutor<'_>, paths: &[String]) -> Result<()> {
    sqlx::query!(
        "update media_file set collect_at = now() + $2::float8 * interval '1 second'
         where path = any($1) and uses = 0",
        paths,
        GIVEN_UP.as_secs_f64(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// A file being written.
pub(crate) struct Writer {
    writer: BufWriter,
    size: u64,
}

impl Writer {
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        Ok(self.writer.put(bytes).await?)
    }

    /// The file is there after this; its size.
    pub(crate) async fn finish(mut self) -> Result<u64> {
        let finished = self.writer.shutdown().await;
        finished.map_err(|error| {
            tracing::warn!(%error, "the object store failed");
            Error::Unavailable("the object store does not answer")
        })?;
        Ok(self.size)
    }

    /// Removes what was written so far.
    pub(crate) async fn abort(mut self) {
        // What stays is below no path, and the store's own clean-up finds it.
        if let Err(error) = self.writer.abort().await {
            tracing::debug!(%error, "an unfinished upload was not removed");
        }
    }
}

/// Removes files that nobody shows, file before row; a batch at a time.
///
/// A row is locked while its file goes: whoever wants to show it waits and then finds it gone.
pub(crate) async fn collect(media: &Media) -> Result<()> {
    loop {
        let mut tx = media.db.begin().await?;
        let paths = sqlx::query_scalar!(
            "select path from media_file where collect_at <= now() and uses = 0
             order by collect_at limit $1 for update skip locked",
            COLLECT_MAX,
        )
        .fetch_all(&mut *tx)
        .await?;
        let count = paths.len() as i64;
        if count == 0 {
            return Ok(());
        }
        let locations = paths.iter().map(|path| Ok(Path::from(path.as_str())));
        let locations = futures_util::stream::iter(locations.collect::<Vec<_>>()).boxed();
        let mut removed = media.store.delete_stream(locations);
        let mut gone = Vec::with_capacity(paths.len());
        let removing = async {
            for path in paths {
                match removed.next().await {
                    Some(Ok(_) | Err(object_store::Error::NotFound { .. })) => gone.push(path),
                    Some(Err(error)) => {
                        tracing::warn!(%error, "a file was not removed; trying again later");
                    }
                    None => return,
                }
            }
        };
        if timeout(REMOVE_MAX, removing).await.is_err() {
            tracing::warn!("files were not removed in time; trying again later");
        }
        sqlx::query!("delete from media_file where path = any($1)", &gone)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        if count < COLLECT_MAX || gone.is_empty() {
            return Ok(());
        }
    }
}
