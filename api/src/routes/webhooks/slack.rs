//! Slack's form of a message, read as one of ours.

use guildhall_shared::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    error::Result,
    extract::{Form, null_is_default},
    form::FormErrors,
    routes::messages::{Embed, NewMessageForm},
};

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct SlackMessage {
    text: Option<String>,
    username: Option<String>,
    icon_url: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    attachments: Vec<Attachment>,
}

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = SlackAttachment)]
struct Attachment {
    title: Option<String>,
    title_link: Option<String>,
    text: Option<String>,
    /// `#rrggbb`.
    color: Option<String>,
    /// Unix seconds.
    ts: Option<i64>,
    pretext: Option<String>,
    footer: Option<String>,
    footer_icon: Option<String>,
    author_name: Option<String>,
    author_link: Option<String>,
    author_icon: Option<String>,
    image_url: Option<String>,
    thumb_url: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    fields: Vec<Field>,
}

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = SlackField)]
struct Field {
    #[serde(alias = "title")]
    name: Option<String>,
    value: Option<String>,
    #[serde(alias = "short", deserialize_with = "null_is_default")]
    inline: bool,
}

impl Form for SlackMessage {}

impl SlackMessage {
    /// Errors: 50035.
    pub(super) fn into_form(self) -> Result<NewMessageForm> {
        let embeds: serde_json::Result<Vec<Embed>> =
            self.attachments.iter().map(Attachment::embed).collect();
        let mut form = NewMessageForm::of_text(self.text.unwrap_or_default(), embeds?);
        form.username = self.username;
        form.avatar_url = self.icon_url;
        let mut faults = FormErrors::new();
        form.check(&mut faults);
        faults.finish()?;
        Ok(form)
    }
}

impl Attachment {
    fn embed(&self) -> serde_json::Result<Embed> {
        let color = self.color.as_deref().and_then(|color| {
            let digits = color.strip_prefix('#').unwrap_or(color);
            u32::from_str_radix(digits, 16)
                .ok()
                .filter(|&color| color <= 0xFF_FFFF)
        });
        let text = match (&self.pretext, &self.text) {
            (Some(pretext), Some(text)) => Some(format!("{pretext}\n{text}")),
            (Some(text), None) | (None, Some(text)) => Some(text.clone()),
            (None, None) => None,
        };
        let media = |url: &Option<String>| url.as_ref().map(|url| json!({ "url": url }));
        let fields: Vec<Value> = self
            .fields
            .iter()
            .map(
                |field| json!({ "name": field.name, "value": field.value, "inline": field.inline }),
            )
            .collect();
        let at = self.ts.and_then(|ts| u64::try_from(ts).ok());
        serde_json::from_value(json!({
            "title": self.title,
            "url": self.title_link,
            "description": text,
            "color": color,
            "timestamp": at.map(|ts| Timestamp::from_unix_ms(ts.saturating_mul(1000))),
            "footer": self.footer.as_ref().map(|footer| json!({
                "text": footer, "icon_url": self.footer_icon })),
            "author": self.author_name.as_ref().map(|name| json!({
                "name": name, "url": self.author_link, "icon_url": self.author_icon })),
            "image": media(&self.image_url),
            "thumbnail": media(&self.thumb_url),
            "fields": fields,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_become_embeds() {
        let slack: SlackMessage = serde_json::from_value(json!({
            "text": "hi", "username": "bot",
            "attachments": [{ "title": "T", "color": "#ff0000", "pretext": "a", "text": "b",
                "fields": [{ "title": "n", "value": "v", "short": true }], "ts": 1_700_000_000 }],
        }))
        .unwrap();
        let form = slack.into_form().unwrap();
        assert_eq!(form.username.as_deref(), Some("bot"));
        let bad: SlackMessage =
            serde_json::from_value(json!({ "attachments": [{ "fields": [{}] }] })).unwrap();
        assert!(bad.into_form().is_err());
    }
}
