//! Commands in the language of whoever asks.

use axum::http::{HeaderMap, header};
use guildhall_shared::model::{Command, CommandOption, Localizations};

/// The language a reply is wanted in, as clients say it.
pub(super) fn locale(headers: &HeaderMap) -> Option<&str> {
    let own = headers.get("x-discord-locale");
    let value = own.or_else(|| headers.get(header::ACCEPT_LANGUAGE))?;
    let first = value.to_str().ok()?.split([',', ';']).next()?.trim();
    Some(first)
}

/// Replaces translations by the one in the caller's language.
pub(super) fn localize(command: &mut Command, locale: Option<&str>) {
    let pick = |all: &mut Option<Localizations>| {
        let all = all.take()?;
        all.get(locale?).cloned()
    };
    let body = &mut command.body;
    body.name_localized = pick(&mut body.name_localizations);
    body.description_localized = pick(&mut body.description_localizations);
    for option in &mut body.options {
        localize_option(option, &pick);
    }
}

fn localize_option(
    option: &mut CommandOption,
    pick: &impl Fn(&mut Option<Localizations>) -> Option<String>,
) {
    option.name_localized = pick(&mut option.name_localizations);
    option.description_localized = pick(&mut option.description_localizations);
    for choice in &mut option.choices {
        choice.name_localized = pick(&mut choice.name_localizations);
    }
    for inner in &mut option.options {
        localize_option(inner, pick);
    }
}
