//! `guildhall-api sticker-packs`: standard stickers from a folder, for everybody on the server.
//!
//! The folder holds `pack.json` and the files it names:
//!
//! ```json
//! {
//!   "name": "Hello", "description": "Ways to greet", "cover": "Wave",
//!   "stickers": [{ "name": "Wave", "tags": "wave", "file": "wave.png" }]
//! }
//! ```
//!
//! A pack is known by its name and a sticker by its name in the pack, so a folder can be
//! imported again after a change. A sticker whose file changed gets a new id, because clients
//! keep the old file for good.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use guildhall_shared::{
    Id,
    id::marker::{Sticker, StickerPack},
};
use guildhall_store::ids_to_db;
use serde::Deserialize;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{MediaConfig, Secret},
    error::{Error, Result},
    extract::{Form, parse_form},
    form::{Fault, FormErrors},
    keys::Keys,
    media::Media,
    routes::stickers::{
        StickerFile,
        packs::{self, PACKS_MAX},
    },
    snowflakes::Snowflakes,
};

/// Stickers of one pack at most.
const STICKERS_MAX: usize = 60;
const MANIFEST: &str = "pack.json";

/// Settings of `guildhall-api sticker-packs`.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Postgres, as postgres://user:password@host:port/database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Secret,

    #[command(flatten)]
    media: MediaConfig,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    /// Bring a pack in, or up to date with its folder.
    Import {
        /// Holds pack.json and the files it names.
        folder: PathBuf,
    },
    /// Show the packs there are.
    List,
    /// Take a pack out. Messages keep the names of its stickers, the files go.
    Remove {
        /// As `list` shows it.
        pack_id: Id<StickerPack>,
    },
}

/// Why a pack was not imported or removed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("{}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: {faults}", path.display())]
    Refused { path: PathBuf, faults: String },
    #[error("there are {PACKS_MAX} packs already")]
    TooMany,
    #[error("no pack has the id {0}")]
    Unknown(Id<StickerPack>),
    #[error("DATABASE_URL: {0}")]
    Database(#[from] sqlx::Error),
    #[error("MEDIA_DIR, MEDIA_S3_*: {0}")]
    Media(#[from] object_store::Error),
    #[error("{0}")]
    Request(#[from] Error),
}

/// `pack.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Manifest {
    name: String,
    description: Option<String>,
    /// Name of the sticker that stands for the pack.
    cover: Option<String>,
    stickers: Vec<ManifestSticker>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ManifestSticker {
    name: String,
    description: Option<String>,
    tags: String,
    /// In the folder itself.
    file: String,
}

impl Form for Manifest {
    fn check(&self, form: &mut FormErrors) {
        form.length("name", &self.name, 1..=100);
        if let Some(description) = &self.description {
            form.length("description", description, 0..=300);
        }
        let count = self.stickers.len();
        if !(1..=STICKERS_MAX).contains(&count) {
            let (min, max) = (1, STICKERS_MAX);
            form.add("stickers", Fault::BadLength { min, max });
        }
        let mut names = HashSet::new();
        for (index, sticker) in self.stickers.iter().enumerate() {
            let at = |field| format!("stickers.{index}.{field}");
            form.length(&at("name"), &sticker.name, 2..=30);
            form.length(&at("tags"), &sticker.tags, 1..=200);
            if let Some(description) = &sticker.description {
                form.length(&at("description"), description, 2..=100);
            }
            if !names.insert(&sticker.name) {
                let message = "Two stickers have this name.";
                form.add(at("name"), Fault::Other("NAME_TAKEN", message.into()));
            }
            let path = Path::new(&sticker.file);
            if path.file_name() != Some(path.as_os_str()) {
                let message = "Must name a file in the folder.";
                form.add(at("file"), Fault::Other("FILE_INVALID", message.into()));
            }
        }
        if let Some(cover) = &self.cover
            && !names.contains(cover)
        {
            let message = "No sticker has this name.";
            form.add("cover", Fault::Other("COVER_UNKNOWN", message.into()));
        }
    }
}

/// Does what the command says; what there is to tell the operator.
///
/// Errors: a folder that is no pack, a database or object store that does not answer.
pub async fn run(config: Config) -> Result<String, PackError> {
    let db = PgPool::connect(config.database_url.reveal()).await?;
    let told = run_on(&db, config).await;
    db.close().await;
    told
}

/// [`run`] on a database that is open.
pub async fn run_on(db: &PgPool, config: Config) -> Result<String, PackError> {
    match config.action {
        Action::Import { folder } => {
            // Nothing is signed here.
            let no_key = Keys::only(Secret::from(String::new()));
            let media = Media::with(&config.media, &no_key, "", db.clone())?;
            import(db, &media, &folder).await
        }
        Action::List => Ok(list(db).await?),
        Action::Remove { pack_id } => remove(db, pack_id).await,
    }
}

/// A sticker of a folder, read and checked, and the id it gets if it is new.
struct Read {
    sticker: ManifestSticker,
    file: StickerFile,
    new_id: Id<Sticker>,
}

async fn import(db: &PgPool, media: &Media, folder: &Path) -> Result<String, PackError> {
    let path = folder.join(MANIFEST);
    let manifest = parse_form::<Manifest>(&read(&path)?);
    let mut manifest = manifest.map_err(|error| refused(&path, error))?;
    let snowflakes = Snowflakes::lease(db).await?;
    let new_pack = snowflakes.next()?;
    let mut stickers = Vec::with_capacity(manifest.stickers.len());
    for sticker in manifest.stickers.drain(..) {
        let path = folder.join(&sticker.file);
        let file = StickerFile::inspect(media, read(&path)?).await;
        stickers.push(Read {
            file: file.map_err(|error| refused(&path, error))?,
            sticker,
            new_id: snowflakes.next()?,
        });
    }
    // Gives the worker number back at once.
    let over = CancellationToken::new();
    over.cancel();
    snowflakes.keep(db, over).await;
    let pack = store(db, media, new_pack, &manifest, &stickers).await?;
    let (name, count) = (&manifest.name, stickers.len());
    Ok(format!("pack {pack} {name:?}: {count} stickers"))
}

/// Stores a pack: first the files that are new, then all rows in one transaction.
async fn store(
    db: &PgPool,
    media: &Media,
    new_pack: Id<StickerPack>,
    manifest: &Manifest,
    stickers: &[Read],
) -> Result<Id<StickerPack>, PackError> {
    let all = packs::packs(db, None).await?;
    let before = all.iter().find(|pack| pack.name == manifest.name);
    if before.is_none() && all.len() >= PACKS_MAX {
        return Err(PackError::TooMany);
    }
    let known: HashMap<&str, Id<Sticker>> = before
        .iter()
        .flat_map(|pack| &pack.stickers)
        .map(|sticker| (sticker.name.as_str(), sticker.id))
        .collect();
    let mut ids = Vec::with_capacity(stickers.len());
    for Read {
        sticker,
        file,
        new_id,
    } in stickers
    {
        let kept = match known.get(sticker.name.as_str()) {
            Some(&id) => {
                let stored = media.read(&StickerFile::path(id)).await?;
                (stored.as_ref() == Some(file.bytes())).then_some(id)
            }
            None => None,
        };
        if kept.is_none() {
            file.keep(media, *new_id).await?;
        }
        ids.push(kept.unwrap_or(*new_id));
    }
    let named = stickers.iter().zip(&ids);
    let cover = named.clone().find_map(|(read, &id)| {
        let is_it = manifest.cover.as_ref() == Some(&read.sticker.name);
        is_it.then_some(id)
    });
    let mut tx = db.begin().await?;
    let pack = sqlx::query_scalar!(
        "insert into sticker_pack (pack_id, name, description, cover_sticker_id)
         values ($1, $2, $3, $4)
         on conflict (name) do update
         set description = excluded.description, cover_sticker_id = excluded.cover_sticker_id
         returning pack_id",
        new_pack.to_db(),
        manifest.name,
        manifest.description,
        cover.map(Id::to_db),
    )
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query!(
        "delete from pack_sticker where pack_id = $1 and sticker_id <> all($2)",
        pack,
        &ids_to_db(&ids),
    )
    .execute(&mut *tx)
    .await?;
    for (place, (read, id)) in named.enumerate() {
        let sticker = &read.sticker;
        sqlx::query!(
            "insert into pack_sticker
               (sticker_id, pack_id, name, description, tags, format, sort_value)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (sticker_id) do update
             set description = excluded.description, tags = excluded.tags,
                 sort_value = excluded.sort_value",
            id.to_db(),
            pack,
            sticker.name,
            sticker.description,
            sticker.tags,
            i16::from(read.file.format.0),
            place as i32,
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(Id::from_db(pack))
}

async fn list(db: &PgPool) -> Result<String> {
    let mut told = String::new();
    for pack in packs::packs(db, None).await? {
        let (id, name, count) = (pack.id, &pack.name, pack.stickers.len());
        // Writing to a String cannot fail.
        let _ = writeln!(told, "{id} {name:?}: {count} stickers");
    }
    Ok(told.trim_end().to_owned())
}

/// Errors: [`PackError::Unknown`].
async fn remove(db: &PgPool, pack: Id<StickerPack>) -> Result<String, PackError> {
    let removed = sqlx::query!("delete from sticker_pack where pack_id = $1", pack.to_db())
        .execute(db)
        .await?;
    match removed.rows_affected() {
        0 => Err(PackError::Unknown(pack)),
        _ => Ok(format!("pack {pack} is gone")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PackError> {
    std::fs::read(path).map_err(|error| PackError::Read {
        path: path.to_owned(),
        error,
    })
}

fn refused(path: &Path, error: Error) -> PackError {
    let faults = match error {
        Error::Form(faults) => faults.to_json().to_string(),
        other => other.to_string(),
    };
    PackError::Refused {
        path: path.to_owned(),
        faults,
    }
}
