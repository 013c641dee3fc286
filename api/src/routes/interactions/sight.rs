//! What an application without the intent for content sees of the messages that an interaction is
//! about. Spec: gateway.md › MESSAGE_CONTENT.
//!
//! The target of a message command is shown whole to the command's application, and a message whose
//! component was used is its own. What such a message answers is neither, and is seen as in any
//! message.

use guildhall_shared::{
    Id,
    id::marker::User,
    model::{Application, Message},
};
use serde_json::Value;

use crate::{error::Result, routes::messages};

/// An interaction in a guild as those of the application's sessions get it that lack the intent;
/// `None` if that is no different.
pub(super) fn without_answered(
    interaction: &Value,
    application: &Application,
) -> Result<Option<Value>> {
    let bot = application.id.cast();
    let (mut shown, mut differs) = (interaction.clone(), false);
    if let Some(message) = shown.get_mut("message") {
        differs |= hide_answered(message, bot)?;
    }
    let targets = shown.pointer_mut("/data/resolved/messages");
    if let Some(Value::Object(targets)) = targets {
        for message in targets.values_mut() {
            differs |= hide_answered(message, bot)?;
        }
    }
    Ok(differs.then_some(shown))
}

/// Hides the content of the message that one answers, unless the bot wrote it or is mentioned in it;
/// true if there is any.
fn hide_answered(message: &mut Value, bot: Id<User>) -> Result<bool> {
    let answered = message.get_mut("referenced_message");
    let Some(answered) = answered.filter(|answered| answered.is_object()) else {
        return Ok(false);
    };
    let whole: Message = serde_json::from_value(answered.clone())?;
    if whole.is_empty() || messages::is_read_by(&whole, bot) {
        return Ok(false);
    }
    *answered = serde_json::to_value(whole.without_content())?;
    Ok(true)
}
