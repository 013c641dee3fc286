//! The CDN: images in every size and format, attachments by signed address, sounds, stickers.
//! Spec: limits-and-errors › CDN.
//!
//! Stands at the root of the host, beside the API. Never asks who wants it: images are public
//! by their hash, attachments by their signature.

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use guildhall_shared::{
    Id, Timestamp,
    error_code::ErrorCode,
    id::marker::{Any, Attachment, Channel},
};

use crate::{
    app::App,
    error::Result,
    extract::Path,
    media::{File, Format, Signed, Variant, is_inline},
};

/// What never changes under its address.
const FOR_GOOD: &str = "public, max-age=31536000, immutable";
/// Attachments: theirs may be kept by whoever was given the address.
const PRIVATE: &str = "private, max-age=31536000, immutable";
const SIZES: std::ops::RangeInclusive<u32> = 16..=4096;

pub(crate) fn router() -> Router<App> {
    let by_owner = [
        "avatars",
        "banners",
        "icons",
        "splashes",
        "discovery-splashes",
        "role-icons",
        "channel-icons",
        "app-icons",
        "guild-events",
    ];
    let mut router = Router::new();
    for folder in by_owner {
        let route = format!("/{folder}/{{owner_id}}/{{file}}");
        let image = async move |State(app): State<App>,
                                RawQuery(query): RawQuery,
                                headers: HeaderMap,
                                Path((owner, file)): Path<(Id<Any>, String)>| {
            let folder = format!("{folder}/{owner}");
            image(&app, &folder, &file, query.as_deref(), &headers).await
        };
        router = router.route(&route, get(image));
    }
    router
        .route("/embed/avatars/{file}", get(embed_avatar))
        .route(
            "/guilds/{guild_id}/users/{user_id}/avatars/{file}",
            get(member_avatar),
        )
        .route(
            "/guilds/{guild_id}/users/{user_id}/banners/{file}",
            get(member_banner),
        )
        .route("/emojis/{file}", get(emoji))
        .route("/stickers/{file}", get(sticker))
        .route("/soundboard-sounds/{file}", get(sound))
        .route(
            "/attachments/{channel_id}/{attachment_id}/{filename}",
            get(attachment),
        )
        .route(
            "/ephemeral-attachments/{channel_id}/{attachment_id}/{filename}",
            get(attachment),
        )
}

async fn member_avatar(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    Path((guild, user, file)): Path<(Id<Any>, Id<Any>, String)>,
) -> Result<Response> {
    let folder = format!("guilds/{guild}/users/{user}/avatars");
    image(&app, &folder, &file, query.as_deref(), &headers).await
}

async fn member_banner(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    Path((guild, user, file)): Path<(Id<Any>, Id<Any>, String)>,
) -> Result<Response> {
    let folder = format!("guilds/{guild}/users/{user}/banners");
    image(&app, &folder, &file, query.as_deref(), &headers).await
}

/// `<id>.<extension>`, animated ones as gif too.
async fn emoji(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    Path((file,)): Path<(String,)>,
) -> Result<Response> {
    image(&app, "emojis", &file, query.as_deref(), &headers).await
}

/// An image of a folder; `file` is its name, a dot and the format wanted (png without).
///
/// Errors: 404, 415 for a format it cannot have, 400 for a size that is no power of two.
async fn image(
    app: &App,
    folder: &str,
    file: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response> {
    let (name, extension) = file.rsplit_once('.').unwrap_or((file, "png"));
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        return Err(ErrorCode::NotFound.into());
    }
    let format = Format::by_extension(extension).ok_or(ErrorCode::UnsupportedMediaType)?;
    let size = size(query)?;
    let path = format!("{folder}/{name}");
    let found = app.media.find(&path).await?.ok_or(ErrorCode::NotFound)?;
    let moves = name.starts_with("a_") || (folder == "emojis" && may_move(&found));
    if format == Format::Gif && !moves {
        return Err(ErrorCode::UnsupportedMediaType.into());
    }
    let tag = format!("\"{name}-{extension}-{}\"", size.unwrap_or_default());
    if is_known(headers, &tag) {
        return Ok(not_modified(&tag, FOR_GOOD));
    }
    let variant = Variant { format, size };
    let bytes = app.media.render(&found, variant).await?;
    let bytes = bytes.ok_or(ErrorCode::NotFound)?;
    Ok(whole(bytes, format.content_type(), &tag))
}

fn may_move(file: &File) -> bool {
    matches!(file.content_type.as_str(), "image/gif" | "image/webp")
}

/// 0 to 5, png only.
async fn embed_avatar(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    Path((file,)): Path<(String,)>,
) -> Result<Response> {
    let (index, extension) = file.split_once('.').unwrap_or((&file, "png"));
    if extension != "png" {
        return Err(ErrorCode::UnsupportedMediaType.into());
    }
    let size = size(query.as_deref())?.unwrap_or(256).min(1024);
    let tag = format!("\"default-{index}-{size}\"");
    let index: usize = index.parse().map_err(|_| ErrorCode::NotFound)?;
    if is_known(&headers, &tag) && index < 6 {
        return Ok(not_modified(&tag, FOR_GOOD));
    }
    let drawn = app.media.default_avatar(index, size).await?;
    let bytes = drawn.ok_or(ErrorCode::NotFound)?;
    Ok(whole(bytes, "image/png", &tag))
}

/// As it was uploaded: png (also animated), json (Lottie) or gif by its format; a still one
/// is made smaller if wanted.
async fn sticker(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    Path((file,)): Path<(String,)>,
) -> Result<Response> {
    let (name, extension) = file.split_once('.').unwrap_or((&file, ""));
    let id: Id<Any> = name.parse().map_err(|_| ErrorCode::NotFound)?;
    let size = size(query.as_deref())?;
    let found = app.media.find(&format!("stickers/{id}")).await?;
    let found = found.ok_or(ErrorCode::NotFound)?;
    let fits = match found.content_type.as_str() {
        "application/json" => extension == "json",
        "image/gif" => matches!(extension, "gif" | "png" | "webp"),
        _ => matches!(extension, "png" | "webp"),
    };
    if !fits {
        return Err(ErrorCode::UnsupportedMediaType.into());
    }
    let tag = format!("\"{id}-{extension}-{}\"", size.unwrap_or_default());
    if is_known(&headers, &tag) {
        return Ok(not_modified(&tag, FOR_GOOD));
    }
    let own = match found.content_type.as_str() {
        "application/json" => "json",
        "image/gif" => "gif",
        _ => "png",
    };
    if extension == own && size.is_none() || own == "json" {
        let bytes = app.media.read(&found.path).await?;
        let bytes = bytes.ok_or(ErrorCode::NotFound)?;
        return Ok(whole(bytes, &found.content_type, &tag));
    }
    let format = Format::by_extension(extension).ok_or(ErrorCode::UnsupportedMediaType)?;
    let bytes = app.media.render(&found, Variant { format, size }).await?;
    let bytes = bytes.ok_or(ErrorCode::NotFound)?;
    Ok(whole(bytes, format.content_type(), &tag))
}

/// Errors: 404.
async fn sound(
    State(app): State<App>,
    headers: HeaderMap,
    Path((file,)): Path<(String,)>,
) -> Result<Response> {
    let name = file.split_once('.').map_or(&*file, |(name, _)| name);
    let id: Id<Any> = name.parse().map_err(|_| ErrorCode::NotFound)?;
    let found = app.media.find(&format!("soundboard-sounds/{id}")).await?;
    let found = found.ok_or(ErrorCode::NotFound)?;
    streamed(&app, &found, &headers, FOR_GOOD).await
}

/// An upload as it came, whole or in part.
///
/// What a browser could run is offered as a download. Errors: 404 also for an address that
/// was not given out here or is over, 416.
async fn attachment(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    Path((channel, id, filename)): Path<(Id<Channel>, Id<Attachment>, String)>,
) -> Result<Response> {
    let signed = Signed::parse(query.as_deref().unwrap_or_default());
    let now = Timestamp::now().0.unix_timestamp();
    let signed_path = format!("{channel}/{id}/{filename}");
    if !app.media.opens(&signed_path, &signed, now) {
        return Err(ErrorCode::NotFound.into());
    }
    let found = app.media.find(&format!("attachments/{id}")).await?;
    let found = found.ok_or(ErrorCode::NotFound)?;
    let mut response = streamed(&app, &found, &headers, PRIVATE).await?;
    let kind = if is_inline(&found.content_type) {
        "inline"
    } else {
        "attachment"
    };
    // The signature says that the name is one of ours: no quotes, no line ends.
    let disposition = format!("{kind}; filename=\"{filename}\"");
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// A file of any length, or the range of it that was asked for.
async fn streamed(app: &App, file: &File, headers: &HeaderMap, cache: &str) -> Result<Response> {
    let tag = format!("\"{}\"", file.path.rsplit('/').next().unwrap_or_default());
    if is_known(headers, &tag) {
        return Ok(not_modified(&tag, cache));
    }
    let range = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok())
        .map_or(Wanted::Whole, |range| Wanted::parse(range, file.size));
    let range = match range {
        Wanted::Whole => None,
        Wanted::Part(range) => Some(range),
        Wanted::Nothing => {
            let mut response =
                crate::error::Error::from(ErrorCode::RangeNotSatisfiable).into_response();
            set(
                &mut response,
                header::CONTENT_RANGE,
                &format!("bytes */{}", file.size),
            );
            return Ok(response);
        }
    };
    let length = range.as_ref().map_or(file.size, |r| r.end - r.start);
    // A store answers no range of an empty file.
    let body = if file.size == 0 {
        Body::empty()
    } else {
        let stream = app.media.stream(&file.path, range.clone()).await?;
        Body::from_stream(stream.ok_or(ErrorCode::NotFound)?)
    };
    let mut response = Response::new(body);
    if let Some(range) = range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let (start, last) = (range.start, range.end - 1);
        let value = format!("bytes {start}-{last}/{}", file.size);
        set(&mut response, header::CONTENT_RANGE, &value);
    }
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    protect(&mut response, &file.content_type, cache, &tag);
    Ok(response)
}

fn whole(bytes: Bytes, content_type: &str, tag: &str) -> Response {
    let mut response = Response::new(Body::from(bytes));
    protect(&mut response, content_type, FOR_GOOD, tag);
    response
}

fn not_modified(tag: &str, cache: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    set(&mut response, header::ETAG, tag);
    set(&mut response, header::CACHE_CONTROL, cache);
    response
}

/// What every file says: its type, which is not to be guessed at, and that nothing runs in it.
fn protect(response: &mut Response, content_type: &str, cache: &str, tag: &str) {
    set(response, header::CONTENT_TYPE, content_type);
    set(response, header::CACHE_CONTROL, cache);
    set(response, header::ETAG, tag);
    set(response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    let policy = "default-src 'none'; sandbox";
    set(response, header::CONTENT_SECURITY_POLICY, policy);
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Whether the client has this version already.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get(header::IF_NONE_MATCH)
        .and_then(|known| known.to_str().ok())
        .is_some_and(|known| {
            known
                .split(',')
                .any(|known| known.trim().trim_start_matches("W/") == tag || known.trim() == "*")
        })
}

/// `size=` of a query: a power of two, 16 to 4096. Errors: 400.
fn size(query: Option<&str>) -> Result<Option<u32>> {
    let size = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find_map(|(key, value)| (key == "size").then_some(value));
    let Some(size) = size else { return Ok(None) };
    match size.parse::<u32>() {
        Ok(size) if SIZES.contains(&size) && size.is_power_of_two() => Ok(Some(size)),
        Ok(_) | Err(_) => Err(ErrorCode::BadRequest.into()),
    }
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(std::ops::Range<u64>),
    /// Beyond the end.
    Nothing,
}

impl Wanted {
    /// One range of bytes; several, or what is no range, count as none.
    fn parse(header: &str, size: u64) -> Self {
        let Some(range) = header.strip_prefix("bytes=") else {
            return Self::Whole;
        };
        let Some((first, last)) = range.trim().split_once('-') else {
            return Self::Whole;
        };
        match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first > last => Self::Whole,
            (Ok(first), _) if first >= size => Self::Nothing,
            (Ok(first), Ok(last)) => Self::Part(first..last.saturating_add(1).min(size)),
            (Ok(first), Err(_)) if last.is_empty() => Self::Part(first..size),
            (Err(_), Ok(0)) if first.is_empty() => Self::Nothing,
            (Err(_), Ok(_)) if first.is_empty() && size == 0 => Self::Nothing,
            (Err(_), Ok(count)) if first.is_empty() => Self::Part(size.saturating_sub(count)..size),
            _ => Self::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_file() {
        let parse = |header| Wanted::parse(header, 100);
        assert_eq!(parse("bytes=0-9"), Wanted::Part(0..10));
        assert_eq!(parse("bytes=90-"), Wanted::Part(90..100));
        assert_eq!(parse("bytes=-10"), Wanted::Part(90..100));
        assert_eq!(parse("bytes=-1000"), Wanted::Part(0..100));
        assert_eq!(
            parse("bytes=50-18446744073709551615"),
            Wanted::Part(50..100)
        );
        assert_eq!(parse("bytes=100-"), Wanted::Nothing);
        assert_eq!(parse("bytes=-0"), Wanted::Nothing);
        for odd in [
            "bytes=5-2",
            "bytes=a-b",
            "bytes=1-2,4-5",
            "lines=1-2",
            "bytes=-",
        ] {
            assert_eq!(parse(odd), Wanted::Whole, "{odd}");
        }
        assert_eq!(Wanted::parse("bytes=0-", 0), Wanted::Nothing);
    }

    #[test]
    fn sizes_are_powers_of_two() {
        let size = |query| size(Some(query)).ok();
        assert_eq!(size("size=64"), Some(Some(64)));
        assert_eq!(size("a=1"), Some(None));
        for bad in [
            "size=8192",
            "size=8",
            "size=100",
            "size=",
            "size=-1",
            "size=x",
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_range_panics_or_leaves_the_file(header: String, size in 0u64..1000) {
            for header in [header.clone(), format!("bytes={header}")] {
                if let Wanted::Part(range) = Wanted::parse(&header, size) {
                    proptest::prop_assert!(range.start < range.end && range.end <= size);
                }
            }
        }
    }
}
