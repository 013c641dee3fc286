//! Files of a request as attachments of a message. Spec: objects.md › Attachment.

use std::collections::BTreeMap;

use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker::{Attachment, Channel, User},
    model::Message,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{FILES_MAX, Files, Received};
use crate::{
    error::Result,
    form::{Fault, FormErrors},
    media::{File, Media, sanitize},
};

const TEXT_MAX: usize = 1024;
const WAVEFORM_MAX: usize = 400;
/// Attachment flag: hidden until clicked.
const IS_SPOILER: u64 = 1 << 3;

/// What a request says of one attachment: of a file it brings (`id` is the n of `files[n]`),
/// of bytes it put into an upload slot (`uploaded_filename`), or of one the message keeps.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = MessageAttachmentRequest)]
pub(crate) struct AttachmentForm {
    #[serde(deserialize_with = "number")]
    #[schema(value_type = Option<String>)]
    pub(crate) id: Option<u64>,
    pub(crate) filename: Option<String>,
    pub(crate) title: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) duration_secs: Option<f64>,
    pub(crate) waveform: Option<String>,
    pub(crate) is_spoiler: Option<bool>,
    pub(crate) uploaded_filename: Option<String>,
}

/// A number, as such or as text; zero counts too, unlike in ids.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct Visitor;
    impl serde::de::Visitor<'_> for Visitor {
        type Value = Option<u64>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a snowflake")
        }

        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
            Ok(Some(value))
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let unexpected = serde::de::Unexpected::Str(text);
            let wrong = |_| E::invalid_value(unexpected, &self);
            text.parse().map(Some).map_err(wrong)
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Visitor)
}

impl AttachmentForm {
    /// Checks `attachments` of a body.
    pub(crate) fn check_all(list: &[Self], form: &mut FormErrors) {
        if list.len() > FILES_MAX {
            let max = FILES_MAX;
            form.add("attachments", Fault::BadLength { min: 0, max });
            return;
        }
        for (index, attachment) in list.iter().enumerate() {
            let at = |field| format!("attachments.{index}.{field}");
            for (field, text, max) in [
                ("filename", &attachment.filename, TEXT_MAX),
                ("title", &attachment.title, TEXT_MAX),
                ("description", &attachment.description, TEXT_MAX),
                ("waveform", &attachment.waveform, WAVEFORM_MAX),
            ] {
                if let Some(text) = text {
                    form.whole_length(&at(field), text, 0..=max);
                }
            }
            let duration = attachment.duration_secs;
            if duration.is_some_and(|seconds| !(0.0..=86_400.0).contains(&seconds)) {
                form.add(at("duration_secs"), Fault::Min(0));
            }
        }
    }
}

impl Files {
    /// Takes the bytes that came through upload slots among the files of the request.
    ///
    /// Errors: 50035 for a slot that is not this channel's and user's, is over, is empty or
    /// was used.
    pub(crate) async fn claim_slots(
        &mut self,
        media: &Media,
        channel: Id<Channel>,
        user: Id<User>,
        forms: &[AttachmentForm],
    ) -> Result<()> {
        for (index, attachment) in forms.iter().enumerate() {
            let Some(name) = &attachment.uploaded_filename else {
                continue;
            };
            let slot = media.slot(name);
            let slot = slot.filter(|slot| (slot.channel, slot.user) == (channel, user));
            let found = match &slot {
                Some(slot) => media.claim(slot.id).await?,
                None => None,
            };
            let found = found.and_then(|file| {
                let id: Id<Attachment> = file.path.strip_prefix("attachments/")?.parse().ok()?;
                Some((id, file))
            });
            let is_new = |id| self.received.iter().all(|received| received.id != id);
            match (slot, found) {
                (Some(slot), Some((id, file))) if is_new(id) => self.received.push(Received {
                    number: attachment.id.unwrap_or(index as u64),
                    id,
                    filename: slot.filename,
                    file,
                }),
                _ => {
                    let path = format!("attachments.{index}.uploaded_filename");
                    return Err(FormErrors::one(&path, not_found()));
                }
            }
        }
        Ok(())
    }

    /// The attachments of a message after this request: those of `kept` that `forms` list,
    /// then the files, each as an attachment object.
    ///
    /// Errors: 30015 above ten, 50035 for an entry without a file.
    pub(crate) fn attach(
        &self,
        media: &Media,
        channel: Id<Channel>,
        forms: &[AttachmentForm],
        kept: &[Value],
    ) -> Result<Vec<Value>> {
        let mut errors = FormErrors::new();
        let mut attachments: Vec<Value> = Vec::new();
        for (index, wanted) in forms.iter().enumerate() {
            let is_file = self.received.iter().any(|received| {
                Some(received.number) == wanted.id || wanted.uploaded_filename.is_some()
            });
            if is_file {
                continue;
            }
            let id = wanted.id.unwrap_or_default().to_string();
            match kept.iter().find(|kept| kept["id"] == id) {
                // Listed twice, it is still one.
                Some(_) if attachments.iter().any(|listed| listed["id"] == id) => {}
                Some(kept) => attachments.push(changed(kept, wanted)),
                None => errors.add(format!("attachments.{index}.id"), not_found()),
            }
        }
        errors.finish()?;
        for received in &self.received {
            let about = about(forms, received.number);
            attachments.push(object(media, channel, received, about));
        }
        if attachments.len() > FILES_MAX {
            return Err(ErrorCode::MaximumAttachments.into());
        }
        Ok(attachments)
    }

    /// The files as attachment objects, by the numbers that the request refers to them by.
    pub(crate) fn numbered(
        &self,
        media: &Media,
        channel: Id<Channel>,
        forms: &[AttachmentForm],
    ) -> BTreeMap<u64, Value> {
        let objects = self.received.iter().map(|received| {
            let about = about(forms, received.number);
            (received.number, object(media, channel, received, about))
        });
        objects.collect()
    }

    /// [`Self::attach`] for an edit: without `forms` everything the message has stays.
    ///
    /// Errors: as there.
    pub(crate) fn edit(
        &self,
        media: &Media,
        channel: Id<Channel>,
        forms: Option<&[AttachmentForm]>,
        before: &[Value],
    ) -> Result<Vec<Value>> {
        let mut attachments = match forms {
            Some(_) => Vec::new(),
            None => before.to_vec(),
        };
        let new = self.attach(media, channel, forms.unwrap_or_default(), before)?;
        attachments.extend(new);
        if attachments.len() > FILES_MAX {
            return Err(ErrorCode::MaximumAttachments.into());
        }
        Ok(attachments)
    }
}

/// What a request says of its file with this number. An entry that names an upload slot and no number
/// has the number of its place.
fn about(forms: &[AttachmentForm], number: u64) -> AttachmentForm {
    let mut places = (0..).zip(forms);
    let found = places.find(|(place, form)| match form.uploaded_filename {
        Some(_) => form.id.unwrap_or(*place) == number,
        None => form.id == Some(number),
    });
    found.map(|(_, form)| form.clone()).unwrap_or_default()
}

fn not_found() -> Fault {
    let message = "The attachment's file was not found";
    Fault::Other("ATTACHMENT_NOT_FOUND", message.into())
}

/// A kept attachment with a new title or description.
fn changed(kept: &Value, wanted: &AttachmentForm) -> Value {
    let mut kept = kept.clone();
    for (field, text) in [
        ("title", &wanted.title),
        ("description", &wanted.description),
    ] {
        if let Some(text) = text {
            kept[field] = json!(clean(text));
        }
    }
    kept
}

fn object(
    media: &Media,
    channel: Id<Channel>,
    received: &Received,
    about: AttachmentForm,
) -> Value {
    let named = about.filename.as_deref().unwrap_or(&received.filename);
    let mut filename = sanitize(named);
    if about.is_spoiler == Some(true) && !filename.starts_with("SPOILER_") {
        filename = sanitize(&format!("SPOILER_{filename}"));
    }
    let File {
        content_type,
        size,
        width,
        height,
        ..
    } = &received.file;
    let url = media.attachment_url(channel, received.id, &filename);
    let mut object = Map::new();
    let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
    set("id", json!(received.id));
    set("filename", json!(filename));
    // A name that had to be changed is still shown.
    let lost = (filename != named).then(|| named.rsplit_once('.').map_or(named, |(stem, _)| stem));
    if let Some(title) = about.title.as_deref().or(lost) {
        set("title", json!(clean(title)));
    }
    if let Some(description) = &about.description {
        set("description", json!(clean(description)));
    }
    set("content_type", json!(content_type));
    set("size", json!(size));
    set("url", json!(url));
    set("proxy_url", json!(url));
    if let (Some(width), Some(height)) = (width, height) {
        set("width", json!(width));
        set("height", json!(height));
    }
    if let Some(seconds) = about.duration_secs {
        set("duration_secs", json!(seconds));
    }
    if let Some(waveform) = &about.waveform {
        set("waveform", json!(clean(waveform)));
    }
    if filename.starts_with("SPOILER_") {
        set("flags", json!(IS_SPOILER));
    }
    Value::Object(object)
}

/// Text as Postgres takes it.
fn clean(text: &str) -> String {
    text.replace('\0', "")
}

/// Where embeds show pictures: the part, and the keys of its address and of the proxy's.
const PICTURES: [(&str, &str, &str); 4] = [
    ("image", "url", "proxy_url"),
    ("thumbnail", "url", "proxy_url"),
    ("author", "icon_url", "proxy_icon_url"),
    ("footer", "icon_url", "proxy_icon_url"),
];

/// The attachments that a message's embeds show, as far as the embeds tell of them. An edit may
/// name them as it names those of the list.
pub(crate) fn embedded(message: &Message) -> Vec<Value> {
    let mut files = Vec::new();
    for embed in &message.embeds {
        for (part, url_key, proxy_key) in PICTURES {
            let part = &embed[part];
            let Some(url) = part[url_key].as_str() else {
                continue;
            };
            let found = message.embedded_files.iter().find_map(|id| {
                let (_, name) = url.split_once(&format!("/{id}/"))?;
                Some((id, name.split('?').next().unwrap_or_default()))
            });
            let Some((id, filename)) = found else {
                continue;
            };
            let mut file = json!({
                "id": id, "filename": filename, "url": url, "proxy_url": part[proxy_key],
            });
            for side in ["width", "height"] {
                if let Some(length) = part.get(side) {
                    file[side] = length.clone();
                }
            }
            files.push(file);
        }
    }
    files
}

/// Makes `attachment://name` in embeds the address of that attachment, or of one of `before`, which
/// earlier embeds showed. Attachments shown so leave the message's list and live as long as the
/// embed shows them.
pub(crate) fn link_embedded(message: &mut Message, before: &[Value]) {
    let mut shown = Vec::new();
    for embed in &mut message.embeds {
        for (part, url_key, proxy_key) in PICTURES {
            let Some(part_object) = embed.get_mut(part).and_then(Value::as_object_mut) else {
                continue;
            };
            let name = part_object.get(url_key).and_then(Value::as_str);
            let Some(name) = name.and_then(|url| url.strip_prefix("attachment://")) else {
                continue;
            };
            let (name, wanted) = (name.to_owned(), sanitize(name));
            let is_it = |file: &&Value| file["filename"] == name || file["filename"] == wanted;
            let Some(file) = message.attachments.iter().chain(before).find(is_it) else {
                continue;
            };
            part_object.insert(url_key.to_owned(), file["url"].clone());
            part_object.insert(proxy_key.to_owned(), file["proxy_url"].clone());
            if url_key == "url" {
                for side in ["width", "height"] {
                    if let Some(length) = file.get(side) {
                        part_object.insert(side.to_owned(), length.clone());
                    }
                }
            }
            shown.push(file["id"].clone());
        }
    }
    message
        .attachments
        .retain(|file| !shown.contains(&file["id"]));
    // Of earlier ones, those that some embed, or what is forwarded, still shows.
    let mut showing = Value::from(message.embeds.clone()).to_string();
    showing += &Value::from(message.message_snapshots.clone()).to_string();
    let is_shown = |id: &Id<Attachment>| showing.contains(&format!("/{id}/"));
    message.embedded_files.retain(is_shown);
    let new = shown
        .iter()
        .filter_map(|id| id.as_str()?.parse::<Id<Attachment>>().ok());
    message.embedded_files.extend(new);
    message.embedded_files.sort_unstable();
    message.embedded_files.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_text_too() {
        let read = |json: Value| serde_json::from_value::<AttachmentForm>(json);
        assert_eq!(read(json!({ "id": 0 })).unwrap().id, Some(0));
        assert_eq!(read(json!({ "id": "7" })).unwrap().id, Some(7));
        assert_eq!(read(json!({ "id": null })).unwrap().id, None);
        for bad in [json!("x"), json!(-1), json!([]), json!(1.5)] {
            assert!(read(json!({ "id": bad })).is_err());
        }
    }
}
