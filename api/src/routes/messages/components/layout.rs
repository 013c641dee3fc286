//! Sections, media and containers of the second kind.

use serde_json::{Map, Value, json};

use super::{super::content::check_url, COMPONENTS_MAX, Node, Parser, Place};
use crate::form::Fault;

impl Parser<'_> {
    pub(super) fn section(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let texts = self.children(node, "components", 1..=3).unwrap_or_default();
        let texts = self.list(&node.at("components"), texts, Place::Section);
        out.insert("components".to_owned(), Value::Array(texts));
        match node.value("accessory") {
            Some(accessory) => {
                let accessory = self.component(&node.at("accessory"), accessory, Place::Accessory);
                out.extend(accessory.map(|accessory| ("accessory".to_owned(), accessory)));
            }
            None => self.form.add(node.at("accessory"), Fault::Required),
        }
    }

    /// `media`, `description` and `spoiler`.
    pub(super) fn media_item(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let media = self.media(node, "media", false);
        let description = self.text(node, "description", 1..=1024, false);
        let spoiler = self.flag(node, "spoiler").unwrap_or(false);
        out.insert("media".to_owned(), media);
        out.insert("description".to_owned(), json!(description));
        out.insert("spoiler".to_owned(), json!(spoiler));
    }

    pub(super) fn gallery(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let mut items = Vec::new();
        let values = self.children(node, "items", 1..=10);
        for (index, value) in values.into_iter().flatten().enumerate() {
            let path = format!("{}.items.{index}", node.path);
            let Value::Object(map) = value else {
                self.form.add(path, Fault::NotObject);
                continue;
            };
            let mut item = Map::new();
            self.media_item(&Node { path: &path, map }, &mut item);
            items.push(Value::Object(item));
        }
        out.insert("items".to_owned(), Value::Array(items));
    }

    pub(super) fn file(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let file = self.media(node, "file", true);
        let spoiler = self.flag(node, "spoiler").unwrap_or(false);
        out.insert("file".to_owned(), file);
        // Filled in from the attachment.
        out.insert("name".to_owned(), Value::Null);
        out.insert("size".to_owned(), Value::Null);
        out.insert("spoiler".to_owned(), json!(spoiler));
    }

    pub(super) fn container(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let color = self.integer(node, "accent_color", 0..=0xFF_FFFF);
        let spoiler = self.flag(node, "spoiler").unwrap_or(false);
        let children = self.children(node, "components", 1..=COMPONENTS_MAX);
        let path = node.at("components");
        let children = self.list(&path, children.unwrap_or_default(), Place::Container);
        out.insert("accent_color".to_owned(), json!(color));
        out.insert("spoiler".to_owned(), json!(spoiler));
        out.insert("components".to_owned(), Value::Array(children));
    }

    /// `{url}` of the web or, where `upload`, of an attachment of this message only.
    pub(super) fn media(&mut self, node: &Node<'_>, key: &str, upload: bool) -> Value {
        let path = node.at(key);
        let map = match node.value(key) {
            Some(Value::Object(map)) => map,
            Some(_) => {
                self.form.add(path, Fault::NotObject);
                return Value::Null;
            }
            None => {
                self.form.add(path, Fault::Required);
                return Value::Null;
            }
        };
        let media = Node { path: &path, map };
        let Some(url) = self.text(&media, "url", 1..=2048, true) else {
            return Value::Null;
        };
        let is_upload = url
            .strip_prefix("attachment://")
            .is_some_and(|name| !name.is_empty());
        if upload && !is_upload {
            let message = "Only attachment:// references are possible here.";
            let fault = Fault::Other("URL_TYPE_INVALID_SCHEME", message.into());
            self.form.add(media.at("url"), fault);
        } else if !is_upload {
            check_url(&media.at("url"), &url, self.form);
        }
        json!({ "url": url, "proxy_url": url })
    }
}
