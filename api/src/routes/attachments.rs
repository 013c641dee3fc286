//! Attachments before and after their message: upload slots, addresses that run out.
//! Spec: endpoints › attachment_upload_slots, attachments_refresh.

use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use guildhall_shared::{Id, Permissions, Timestamp, error_code::ErrorCode, id::marker::Channel};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access,
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    media::{SLOT_SECONDS, SlotClaim, sanitize},
    upload::FILES_MAX,
};

/// Addresses refreshed at a time.
const URLS_MAX: usize = 50;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(attachment_upload_slots))
        .routes(routes!(put_upload))
        .routes(routes!(attachments_refresh))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
struct UploadSlots {
    /// 1 to 10.
    #[schema(required)]
    files: Option<Vec<SlotFile>>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct SlotFile {
    /// The client's own; comes back with the slot.
    #[serde(default)]
    id: Value,
    filename: Option<String>,
    /// Bytes.
    file_size: Option<u64>,
}

impl Form for UploadSlots {
    fn check(&self, form: &mut FormErrors) {
        let Some(files) = form.required("files", &self.files) else {
            return;
        };
        if files.is_empty() || files.len() > FILES_MAX {
            let (min, max) = (1, FILES_MAX);
            form.add("files", Fault::BadLength { min, max });
            return;
        }
        for (index, file) in files.iter().enumerate() {
            let at = |field| format!("files.{index}.{field}");
            if let Some(name) = form.required(&at("filename"), &file.filename) {
                form.length(&at("filename"), name, 1..=260);
            }
            form.required(&at("file_size"), &file.file_size);
            if !matches!(file.id, Value::Null | Value::Number(_) | Value::String(_)) {
                form.add(at("id"), Fault::NotString);
            }
        }
    }
}

#[derive(Serialize, ToSchema)]
struct SlotList {
    attachments: Vec<Slot>,
}

#[derive(Serialize, ToSchema)]
struct Slot {
    id: Value,
    /// Takes one PUT of the bytes, without a token.
    upload_url: String,
    /// What the message says in `attachments[].uploaded_filename`.
    upload_filename: String,
}

/// Places for files that are uploaded one by one before their message.
///
/// Errors: 10003, 40005 for an announced size above the limit, 50001, 50008, 50013, 50035.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/attachments",
    tag = "Attachments",
    responses((status = 200, body = SlotList))
)]
async fn attachment_upload_slots(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Json(body): Json<UploadSlots>,
) -> Result<Json<SlotList>> {
    let needed = Permissions::ATTACH_FILES;
    let mut db = app.db.acquire().await?;
    let place = access::place(&mut db, &user, channel_id, needed).await?;
    drop(db);
    if !place.kind().has_messages() {
        return Err(ErrorCode::NonTextChannel.into());
    }
    let until = Timestamp::now().0.unix_timestamp() + SLOT_SECONDS;
    let mut attachments = Vec::new();
    for file in body.files.unwrap_or_default() {
        let size = file.file_size.unwrap_or_default();
        if size > app.media.attachment_bytes_max {
            return Err(ErrorCode::RequestEntityTooLarge.into());
        }
        let upload_filename = app.media.slot_name(&SlotClaim {
            id: app.snowflakes.next()?,
            channel: channel_id,
            user: user.id,
            size,
            until,
            filename: sanitize(file.filename.as_deref().unwrap_or_default()),
        });
        attachments.push(Slot {
            id: file.id,
            upload_url: format!(
                "{}/api/v10/attachments/upload/{upload_filename}",
                app.media.api_url
            ),
            upload_filename,
        });
    }
    Ok(Json(SlotList { attachments }))
}

/// Fills an upload slot; the address is the permission. Of several PUTs the one that began last
/// counts, until a message shows one.
///
/// Errors: 403 for an address that was not given out or is over, 40005 above
/// `ATTACHMENT_BYTES_MAX`, whatever size was announced.
#[utoipa::path(
    put,
    path = "/attachments/upload/{slot}/{filename}",
    tag = "Attachments",
    security(()),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "The bytes are kept until the message comes"))
)]
async fn put_upload(
    State(app): State<App>,
    Path((slot, filename)): Path<(String, String)>,
    request: Request,
) -> Result<StatusCode> {
    let slot = app.media.slot(&format!("{slot}/{filename}"));
    let slot = slot.ok_or(ErrorCode::MissingAccess)?;
    if app.media.is_spent(slot.id).await? {
        return Err(ErrorCode::MissingAccess.into());
    }
    let id = app.snowflakes.next()?;
    app.media.receive_into_slot(&slot, id, request).await?;
    Ok(StatusCode::OK)
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
struct RefreshUrls {
    /// 1 to 50 addresses of attachments of this server.
    #[schema(required)]
    attachment_urls: Option<Vec<String>>,
}

impl Form for RefreshUrls {
    fn check(&self, form: &mut FormErrors) {
        if let Some(urls) = form.required("attachment_urls", &self.attachment_urls)
            && (urls.is_empty() || urls.len() > URLS_MAX)
        {
            let (min, max) = (1, URLS_MAX);
            form.add("attachment_urls", Fault::BadLength { min, max });
        }
    }
}

#[derive(Serialize, ToSchema)]
struct RefreshedUrls {
    refreshed_urls: Vec<RefreshedUrl>,
}

#[derive(Serialize, ToSchema)]
struct RefreshedUrl {
    original: String,
    /// Null for one that was never given out here.
    refreshed: Option<String>,
}

/// New addresses for old ones, run out or not. Errors: 50035.
#[utoipa::path(
    post,
    path = "/attachments/refresh-urls",
    tag = "Attachments",
    responses((status = 200, body = RefreshedUrls))
)]
async fn attachments_refresh(
    State(app): State<App>,
    _user: CurrentUser,
    Json(body): Json<RefreshUrls>,
) -> Json<RefreshedUrls> {
    let urls = body.attachment_urls.unwrap_or_default();
    let refreshed_urls = urls.into_iter().map(|original| RefreshedUrl {
        refreshed: app.media.refreshed(&original),
        original,
    });
    Json(RefreshedUrls {
        refreshed_urls: refreshed_urls.collect(),
    })
}
