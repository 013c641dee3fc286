//! Media of components: an id, and the attachment behind a reference.

use guildhall_shared::{Id, id::marker};
use serde_json::{Value, json};

use crate::{
    form::{Fault, FormErrors},
    media::sanitize,
};

/// Fills in what media of a message need besides their address: an id, and the attachment
/// behind an `attachment://` reference. `attachments` are attachment objects as they go out.
///
/// Faults: a reference to a file that is not there.
pub(crate) fn link_media(
    components: &mut [Value],
    message: Id<marker::Message>,
    attachments: &[Value],
    form: &mut FormErrors,
) {
    for (index, component) in components.iter_mut().enumerate() {
        let path = format!("components.{index}");
        link(component, &path, message, attachments, form);
    }
}

/// The attachments that components show.
pub(crate) fn linked_files(components: &[Value]) -> Vec<Id<marker::Attachment>> {
    let mut files = Vec::new();
    for component in components {
        collect_files(component, &mut files);
    }
    files
}

fn collect_files(value: &Value, files: &mut Vec<Id<marker::Attachment>>) {
    match value {
        Value::Object(map) => {
            let id = map.get("attachment_id").and_then(Value::as_str);
            files.extend(id.and_then(|id| id.parse::<Id<marker::Attachment>>().ok()));
            map.values().for_each(|inner| collect_files(inner, files));
        }
        Value::Array(list) => list.iter().for_each(|inner| collect_files(inner, files)),
        _ => {}
    }
}

fn link(
    component: &mut Value,
    path: &str,
    message: Id<marker::Message>,
    attachments: &[Value],
    form: &mut FormErrors,
) {
    let Value::Object(map) = component else {
        return;
    };
    for key in ["components", "items"] {
        let children = map.get_mut(key).and_then(Value::as_array_mut);
        for (index, child) in children.into_iter().flatten().enumerate() {
            let path = format!("{path}.{key}.{index}");
            link(child, &path, message, attachments, form);
        }
    }
    if let Some(accessory) = map.get_mut("accessory") {
        link(
            accessory,
            &format!("{path}.accessory"),
            message,
            attachments,
            form,
        );
    }
    for key in ["media", "file"] {
        let Some(Value::Object(media)) = map.get_mut(key) else {
            continue;
        };
        media.insert("id".to_owned(), json!(message));
        let url = media.get("url").and_then(Value::as_str).unwrap_or_default();
        let Some(name) = url.strip_prefix("attachment://") else {
            continue;
        };
        // By the name it was given, or by the one that it is kept by.
        let kept = sanitize(name);
        let is_it = |file: &&Value| file["filename"] == name || file["filename"] == kept;
        let Some(attachment) = attachments.iter().find(is_it) else {
            let fault = Fault::Other(
                "UNFURLED_MEDIA_ITEM_REFERENCED_ATTACHMENT_NOT_FOUND",
                "The referenced attachment was not found".into(),
            );
            form.add(format!("{path}.{key}.url"), fault);
            continue;
        };
        for field in ["url", "proxy_url", "width", "height", "content_type"] {
            if let Some(value) = attachment.get(field) {
                media.insert(field.to_owned(), value.clone());
            }
        }
        media.insert("attachment_id".to_owned(), attachment["id"].clone());
        if key == "file" {
            map.insert("name".to_owned(), attachment["filename"].clone());
            map.insert("size".to_owned(), attachment["size"].clone());
        }
    }
}
