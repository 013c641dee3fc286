//! What people read in a message, for whoever looks for words in it: search, automod.

use guildhall_shared::model::Message;
use serde_json::Value;

/// Content, embeds, components, the poll, and what it forwards; none of them empty.
pub(crate) fn all_texts(message: &Message) -> Vec<&str> {
    let mut texts = vec![message.content.as_str()];
    for part in message.embeds.iter().chain(&message.components) {
        collect(part, &mut texts);
    }
    for snapshot in &message.message_snapshots {
        let forwarded = &snapshot["message"];
        texts.extend(forwarded["content"].as_str());
        collect(&forwarded["embeds"], &mut texts);
        collect(&forwarded["components"], &mut texts);
    }
    if let Some(poll) = &message.poll {
        texts.extend(poll.question.text.as_deref());
        let answers = poll.answers.iter();
        texts.extend(answers.filter_map(|answer| answer.poll_media.text.as_deref()));
    }
    texts.retain(|text| !text.is_empty());
    texts
}

/// Texts of embeds or components.
fn collect<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    const READ: [&str; 8] = [
        "title",
        "description",
        "name",
        "value",
        "text",
        "content",
        "label",
        "placeholder",
    ];
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if READ.contains(&key.as_str()) => texts.push(text),
                    Value::Object(_) | Value::Array(_) => collect(value, texts),
                    _ => {}
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, texts)),
        _ => {}
    }
}
