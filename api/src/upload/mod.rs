//! Bodies with files: `multipart/form-data` beside JSON. Spec: limits-and-errors › Multipart.
//!
//! Files stream into the store while they arrive; their rows are announced first, so that
//! whatever becomes of the request they are shown by a row or collected.

pub(crate) mod attachments;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::header,
};
use futures_util::{Stream, StreamExt};
use guildhall_shared::{Id, error_code::ErrorCode, id::marker::Attachment};
use multer::{Constraints, Field, Multipart, SizeLimit};
use serde_json::{Map, Value};

use crate::{
    app::App,
    error::{Error, Result},
    extract::{Form, Json, is_urlencoded, parse_form},
    form::{Fault, FormErrors},
    media::{
        File, LEASE, Media, SLOT_SECONDS, SlotClaim, Writer,
        sniff::{self, HEAD_BYTES},
    },
};

/// Files of one request.
pub(crate) const FILES_MAX: usize = 10;
/// Fields that are no files.
const FIELDS_MAX: usize = 64;
/// Bytes of all fields that are no files, `payload_json` among them.
const FIELDS_BYTES_MAX: usize = 1 << 20;
/// Bytes of a form that may come with nothing to hand on: what stands before its first part, and the
/// head of each, are held in memory and searched from the beginning until their end is there.
/// Twice what one read of a socket brings.
const UNREAD_BYTES_MAX: usize = 1 << 20;
/// A client that sends nothing for this long is given up. A refused one has this long in all.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// A body that may bring files: JSON as with [`Json`], or `multipart/form-data` with the JSON
/// in `payload_json` and files in `files[n]`; the fields may be url-encoded as well, without files.
/// Goes where `Json<T>` went:
///
/// ```ignore
/// Upload { body, files }: Upload<CreateMessage>,
/// // before the transaction: bytes that came through upload slots
/// files.claim_slots(&app.media, channel_id, user.id, &body.attachments).await?;
/// // `kept`: what an edited message has; empty for a new one. Needs ATTACH_FILES if there
/// // are files (`files.is_empty()`).
/// message.attachments = files.attach(&app.media, channel_id, &body.attachments, &kept)?;
/// // after `message.embeds` are set: `attachment://name` becomes an address
/// attachments::link_embedded(&mut message, &[]);
/// ```
///
/// `T` holds `attachments: Vec<AttachmentForm>` and calls [`attachments::AttachmentForm::check_all`].
/// Stored files live as long as some message's row lists them; a request that fails leaves
/// files that are collected.
///
/// Errors: as [`Json`]; 40005 for files above `ATTACHMENT_BYTES_MAX`, 30015 above ten files,
/// 50035 for a form that breaks off or has no boundary.
pub(crate) struct Upload<T> {
    pub(crate) body: T,
    pub(crate) files: Files,
}

/// A file that arrived.
#[derive(Debug)]
pub(crate) struct Received {
    /// The number in `files[n]`, by which the JSON refers to it.
    number: u64,
    id: Id<Attachment>,
    /// As the client calls it.
    filename: String,
    file: File,
}

/// The files of a request. Those that no row shows when this is dropped are collected soon.
pub(crate) struct Files {
    app: App,
    received: Vec<Received>,
}

impl Files {
    pub(crate) fn none(app: &App) -> Self {
        Self {
            app: app.clone(),
            received: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.received.is_empty()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What a row shows by now stays: only unused files are given up.
        let paths: Vec<String> = self
            .received
            .iter()
            .map(|received| received.file.path.clone())
            .collect();
        if paths.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let app = self.app.clone();
        self.app.work.spawn(async move {
            if let Err(error) = app.media.give_up(&paths).await {
                tracing::debug!(?error, "files of a request wait for their lease to end");
            }
        });
    }
}

impl<T: Form> FromRequest<App> for Upload<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        if is_urlencoded(request.headers()) {
            let body = Bytes::from_request(request, app).await;
            let body = body.map_err(|_| ErrorCode::RequestEntityTooLarge)?;
            let body = parse_form(&Fields::of_urlencoded(&body)?.into_json()?)?;
            let files = Files::none(app);
            return Ok(Self { body, files });
        }
        if !is_multipart(&request) {
            let Json(body) = Json::<T>::from_request(request, app).await?;
            let files = Files::none(app);
            return Ok(Self { body, files });
        }
        // Most bodies bring no files, and their future need not be as large.
        Box::pin(Self::from_parts(request, app)).await
    }
}

impl<T: Form> Upload<T> {
    async fn from_parts(request: Request, app: &App) -> Result<Self> {
        let mut form = MultipartForm::of_request(request, app)?;
        let mut files = Files::none(app);
        let mut fields = Fields::default();
        while let Some(mut field) = form.next().await? {
            let name = field.name().unwrap_or_default().to_owned();
            if field.file_name().is_none() && !name.starts_with("files[") {
                fields.add(name, &mut field).await?;
                continue;
            }
            if files.received.len() >= FILES_MAX {
                return Err(ErrorCode::MaximumAttachments.into());
            }
            let number = file_number(&name).unwrap_or(files.received.len() as u64);
            let filename = field.file_name().unwrap_or("file").to_owned();
            let id: Id<Attachment> = app.snowflakes.next()?;
            let path = format!("attachments/{id}");
            let max = app.media.attachment_bytes_max;
            let file = receive(&app.media, path, &filename, max, &mut field).await?;
            files.received.push(Received {
                number,
                id,
                filename,
                file,
            });
        }
        let body = parse_form(&fields.into_json()?)?;
        Ok(Self { body, files })
    }

    /// As the extractor, once the token in the path was found good: who has none stores nothing.
    pub(crate) async fn after(
        check: impl Future<Output = Result<()>>,
        request: Request,
        app: &App,
    ) -> Result<Self> {
        read_after(check, request, app).await
    }
}

/// What an extractor reads of a body, once the token in the path was found good: who has none has
/// nothing kept in memory, and nothing parsed.
pub(crate) async fn read_after<T: FromRequest<App, Rejection = Error>>(
    check: impl Future<Output = Result<()>>,
    request: Request,
    app: &App,
) -> Result<T> {
    if let Err(error) = check.await {
        discard(request, app).await;
        return Err(error);
    }
    T::from_request(request, app).await
}

/// Reads a refused body to its end and forgets it: to a client that still sends, the connection
/// would break before the answer is there.
async fn discard(request: Request, app: &App) {
    let mut body = request.into_body().into_data_stream();
    let bytes_max = app.media.upload_bytes_max();
    let read = async {
        let mut size = 0;
        while let Some(Ok(chunk)) = body.next().await {
            size += chunk.len() as u64;
            if size > bytes_max {
                return;
            }
        }
    };
    // Too slow or too long: then it breaks.
    let _ = tokio::time::timeout(PAUSE_MAX, read).await;
}

/// A multipart body of a sticker: fields of text, and one file held in memory.
pub(crate) struct StickerUpload {
    pub(crate) fields: Map<String, Value>,
    /// Name and bytes.
    pub(crate) file: Option<(String, Vec<u8>)>,
}

impl StickerUpload {
    /// Bytes of the file at most; one that is larger comes back one byte too long.
    const FILE_BYTES_MAX: usize = 512 << 10;
}

impl FromRequest<App> for StickerUpload {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        if !is_multipart(&request) {
            return Err(content_type_fault());
        }
        let mut form = MultipartForm::of_request(request, app)?;
        let mut fields = Fields::default();
        let mut file = None;
        while let Some(mut field) = form.next().await? {
            let name = field.name().unwrap_or_default().to_owned();
            if field.file_name().is_none() && name != "file" {
                fields.add(name, &mut field).await?;
                continue;
            }
            let filename = field.file_name().unwrap_or("file").to_owned();
            let mut bytes = Vec::new();
            while let Some(chunk) = field.chunk().await? {
                let room = (Self::FILE_BYTES_MAX + 1).saturating_sub(bytes.len());
                bytes.extend_from_slice(&chunk[..room.min(chunk.len())]);
            }
            file.get_or_insert((filename, bytes));
        }
        Ok(Self {
            fields: fields.into_text(),
            file,
        })
    }
}

fn is_multipart(request: &Request) -> bool {
    let value = request.headers().get(header::CONTENT_TYPE);
    value
        .and_then(|value| value.to_str().ok()?.get(..19))
        .is_some_and(|start| start.eq_ignore_ascii_case("multipart/form-data"))
}

fn content_type_fault() -> Error {
    let message = "Expected \"Content-Type\" header to be one of {'multipart/form-data'}.";
    let fault = Fault::Other("CONTENT_TYPE_INVALID", message.into());
    FormErrors::one("", fault)
}

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The parts of a body, each awaited for [`PAUSE_MAX`] and [`UNREAD_BYTES_MAX`] at most.
struct MultipartForm {
    form: Multipart<'static>,
    unread: Unread,
}

/// Bytes of a form that came since something of it was last handed on.
#[derive(Clone, Default)]
struct Unread(Arc<AtomicUsize>);

impl Unread {
    /// Whether they are still few enough.
    fn add(&self, bytes: usize) -> bool {
        self.0.fetch_add(bytes, Ordering::Relaxed) + bytes <= UNREAD_BYTES_MAX
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A part of a form.
struct Part {
    field: Field<'static>,
    unread: Unread,
}

impl Part {
    fn name(&self) -> Option<&str> {
        self.field.name()
    }

    fn file_name(&self) -> Option<&str> {
        self.field.file_name()
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = in_time(self.field.chunk()).await?;
        self.unread.reset();
        Ok(chunk)
    }
}

impl MultipartForm {
    fn of_request(request: Request, app: &App) -> Result<Self> {
        let content_type = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let body = request.into_body().into_data_stream();
        Self::of(&content_type, body, app.media.upload_bytes_max())
    }

    fn of<E: Into<BodyError> + 'static>(
        content_type: &str,
        body: impl Stream<Item = std::result::Result<Bytes, E>> + Send + 'static,
        bytes_max: u64,
    ) -> Result<Self> {
        let boundary = multer::parse_boundary(content_type).map_err(|_| content_type_fault())?;
        let constraints = Constraints::new().size_limit(SizeLimit::new().whole_stream(bytes_max));
        let unread = Unread::default();
        let counted = unread.clone();
        let body = body.map(move |chunk| -> std::result::Result<Bytes, BodyError> {
            match chunk {
                Ok(chunk) if counted.add(chunk.len()) => Ok(chunk),
                Ok(_) => Err("the head of a part has no end".into()),
                Err(error) => Err(error.into()),
            }
        });
        let form = Multipart::with_constraints(body, boundary, constraints);
        Ok(Self { form, unread })
    }

    async fn next(&mut self) -> Result<Option<Part>> {
        let field = in_time(self.form.next_field()).await?;
        self.unread.reset();
        let unread = self.unread.clone();
        Ok(field.map(|field| Part { field, unread }))
    }
}

async fn in_time<T>(
    read: impl Future<Output = std::result::Result<T, multer::Error>>,
) -> Result<T> {
    match tokio::time::timeout(PAUSE_MAX, read).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(
            multer::Error::StreamSizeExceeded { .. } | multer::Error::FieldSizeExceeded { .. },
        )) => Err(ErrorCode::RequestEntityTooLarge.into()),
        Ok(Err(_)) => {
            let message = "The multipart form is not well formed.";
            let fault = Fault::Other("MULTIPART_INVALID", message.into());
            Err(FormErrors::one("", fault))
        }
        Err(_) => Err(ErrorCode::BadRequest.into()),
    }
}

/// `files[3]`, `file3`: 3.
fn file_number(name: &str) -> Option<u64> {
    let digits = match name.strip_prefix("files[") {
        Some(rest) => rest.strip_suffix(']')?,
        None => name.strip_prefix("file")?,
    };
    digits.parse().ok()
}

/// Streams one part into the store. Errors: 40005 above `bytes_max`, 50035.
async fn receive(
    media: &Media,
    path: String,
    filename: &str,
    bytes_max: u64,
    field: &mut Part,
) -> Result<File> {
    media.announce(&path, LEASE).await?;
    let mut received = Receiving::new(media, path, bytes_max);
    loop {
        match field.chunk().await {
            Ok(Some(chunk)) => received = received.write(chunk).await?,
            Ok(None) => return received.finish(media, filename).await,
            Err(error) => {
                received.abort().await;
                return Err(error);
            }
        }
    }
}

impl Media {
    /// Streams a whole body into an upload slot, as a new file: what a message was checked with
    /// stays as it was, whenever this one ends.
    ///
    /// Errors: 40005 above `ATTACHMENT_BYTES_MAX`, 400 for a body that breaks off, 50001 if the slot
    /// is spent by the end of the body.
    pub(crate) async fn receive_into_slot(
        &self,
        slot: &SlotClaim,
        id: Id<Attachment>,
        request: Request,
    ) -> Result<()> {
        let path = format!("attachments/{id}");
        let lease = Duration::from_secs(SLOT_SECONDS as u64);
        self.announce(&path, lease).await?;
        // Of the announced size nothing follows: some client makes it up.
        let mut received = Receiving::new(self, path, self.attachment_bytes_max);
        let mut body = request.into_body().into_data_stream();
        loop {
            match tokio::time::timeout(PAUSE_MAX, body.next()).await {
                Ok(Some(Ok(chunk))) => received = received.write(chunk).await?,
                Ok(None) => {
                    if self.is_spent(slot.id).await? {
                        received.abort().await;
                        return Err(ErrorCode::MissingAccess.into());
                    }
                    let file = received.finish(self, &slot.filename).await?;
                    return self.fill_slot(slot.id, &file.path).await;
                }
                Ok(Some(Err(_))) | Err(_) => {
                    received.abort().await;
                    return Err(ErrorCode::BadRequest.into());
                }
            }
        }
    }
}

/// A file on its way into the store.
struct Receiving {
    path: String,
    bytes_max: u64,
    writer: Writer,
    size: u64,
    /// The beginning, for sniffing.
    head: Vec<u8>,
}

impl Receiving {
    fn new(media: &Media, path: String, bytes_max: u64) -> Self {
        Self {
            writer: media.writer(&path),
            path,
            bytes_max,
            size: 0,
            head: Vec::new(),
        }
    }

    async fn write(mut self, chunk: Bytes) -> Result<Self> {
        self.size += chunk.len() as u64;
        if self.size > self.bytes_max {
            self.abort().await;
            return Err(ErrorCode::RequestEntityTooLarge.into());
        }
        let room = HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend_from_slice(&chunk[..room.min(chunk.len())]);
        match self.writer.write(chunk).await {
            Ok(()) => Ok(self),
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn finish(self, media: &Media, filename: &str) -> Result<File> {
        let size = self.writer.finish().await?;
        let content_type = sniff::content_type(&self.head, filename);
        let (width, height) = match content_type.starts_with("image/") {
            true => sniff::dimensions(&self.head).unzip(),
            false => (None, None),
        };
        let file = File {
            path: self.path,
            content_type: content_type.to_owned(),
            size,
            width,
            height,
        };
        media.describe(&file).await?;
        Ok(file)
    }

    async fn abort(self) {
        self.writer.abort().await;
    }
}

/// Fields that are no files.
#[derive(Default)]
struct Fields {
    texts: Vec<(String, Vec<u8>)>,
    size: usize,
}

impl Fields {
    /// Errors: 40005.
    fn of_urlencoded(body: &[u8]) -> Result<Self> {
        let pairs = form_urlencoded::parse(body);
        let pairs = pairs.map(|(name, text)| (name.into_owned(), text.into_owned().into_bytes()));
        let texts: Vec<_> = pairs.take(FIELDS_MAX + 1).collect();
        if texts.len() > FIELDS_MAX {
            return Err(ErrorCode::RequestEntityTooLarge.into());
        }
        Ok(Self {
            texts,
            size: body.len(),
        })
    }

    async fn add(&mut self, name: String, field: &mut Part) -> Result<()> {
        if self.texts.len() >= FIELDS_MAX {
            return Err(ErrorCode::RequestEntityTooLarge.into());
        }
        let mut text = Vec::new();
        while let Some(chunk) = field.chunk().await? {
            self.size += chunk.len();
            if self.size > FIELDS_BYTES_MAX {
                return Err(ErrorCode::RequestEntityTooLarge.into());
            }
            text.extend_from_slice(&chunk);
        }
        self.texts.push((name, text));
        Ok(())
    }

    /// `payload_json`, or `payload` as Slack's clients write it; without these, each field is a
    /// field of the body: text where it is no JSON value of another kind.
    fn into_json(self) -> Result<Vec<u8>> {
        let mut object = Map::new();
        for (name, text) in self.texts {
            if matches!(name.as_str(), "payload_json" | "payload") {
                return Ok(text);
            }
            let text = String::from_utf8_lossy(&text).into_owned();
            let is_text = matches!(
                name.as_str(),
                "content" | "nonce" | "username" | "thread_name" | "text"
            );
            let value = match serde_json::from_str::<Value>(&text) {
                Ok(value) if !is_text && !value.is_string() => value,
                Ok(_) | Err(_) => Value::String(text),
            };
            object.insert(name, value);
        }
        Ok(serde_json::to_vec(&object)?)
    }

    fn into_text(self) -> Map<String, Value> {
        self.texts
            .into_iter()
            .map(|(name, text)| (name, String::from_utf8_lossy(&text).into_owned().into()))
            .collect()
    }
}

/// The form in `chunks`, its files thrown away: how many they were, and the JSON of the rest.
/// See [`crate::fuzz`].
pub(crate) async fn read_form(content_type: &str, chunks: Vec<Bytes>) -> Result<(usize, Vec<u8>)> {
    let body = futures_util::stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>));
    let mut form = MultipartForm::of(content_type, body, FIELDS_BYTES_MAX as u64)?;
    let (mut files, mut fields) = (0, Fields::default());
    while let Some(mut field) = form.next().await? {
        let name = field.name().unwrap_or_default().to_owned();
        if field.file_name().is_none() && file_number(&name).is_none() {
            fields.add(name, &mut field).await?;
            continue;
        }
        while field.chunk().await?.is_some() {}
        files += 1;
    }
    Ok((files, fields.into_json()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_numbered_by_their_field() {
        assert_eq!(file_number("files[12]"), Some(12));
        assert_eq!(file_number("file3"), Some(3));
        assert_eq!(file_number("file"), None);
        assert_eq!(file_number("files[x]"), None);
        assert_eq!(file_number("files[1"), None);
    }

    #[tokio::test]
    async fn a_part_whose_head_does_not_end_is_given_up() {
        const CHUNK: usize = 64 << 10;
        let taken = Arc::new(AtomicUsize::new(0));
        for head in ["", "--x\r\ncontent-disposition: form-data; name="] {
            let counted = taken.clone();
            let endless = futures_util::stream::repeat(Bytes::from(vec![b'a'; CHUNK]));
            let endless = endless.inspect(move |chunk| {
                counted.fetch_add(chunk.len(), Ordering::Relaxed);
            });
            let head = futures_util::stream::iter([Bytes::from(head)]);
            let body = head.chain(endless.take(1000)).map(Ok::<_, std::io::Error>);
            let content_type = "multipart/form-data; boundary=x";
            let mut form = MultipartForm::of(content_type, body, u64::MAX).unwrap();
            let error = form.next().await.err().unwrap();
            assert_eq!(error.code(), ErrorCode::InvalidFormBody);
            assert!(taken.swap(0, Ordering::Relaxed) <= UNREAD_BYTES_MAX + CHUNK);
        }
    }

    #[tokio::test]
    async fn a_form_may_be_longer_than_what_may_stay_unread() {
        let mut chunks = vec![Bytes::from(
            "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n",
        )];
        chunks.resize(101, Bytes::from(vec![b'a'; UNREAD_BYTES_MAX / 10]));
        chunks.push(Bytes::from("\r\n--x--\r\n"));
        // As from a socket: one read at a time.
        let body = futures_util::stream::iter(chunks).then(|chunk| async move {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(chunk)
        });
        let content_type = "multipart/form-data; boundary=x";
        let mut form = MultipartForm::of(content_type, body, u64::MAX).unwrap();
        let mut part = form.next().await.unwrap().unwrap();
        let mut size = 0;
        while let Some(chunk) = part.chunk().await.unwrap() {
            size += chunk.len();
        }
        assert_eq!(size, 100 * (UNREAD_BYTES_MAX / 10));
    }

    #[test]
    fn fields_become_a_body_where_there_is_no_payload() {
        let fields = |list: &[(&str, &str)]| Fields {
            texts: list
                .iter()
                .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
                .collect(),
            size: 0,
        };
        let body = fields(&[("content", "1"), ("tts", "true"), ("flags", "4")]);
        assert_eq!(
            body.into_json().unwrap(),
            br#"{"content":"1","flags":4,"tts":true}"#
        );
        let body = fields(&[("content", "1"), ("payload_json", "{}")]);
        assert_eq!(body.into_json().unwrap(), b"{}");
    }
}
