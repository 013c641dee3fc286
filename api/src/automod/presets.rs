//! Word lists of the keyword presets: short, because a guild adds its own keywords.

/// Words of a preset; none for a number that is no preset.
pub(super) fn words(kind: u8) -> &'static [&'static str] {
    match kind {
        1 => PROFANITY,
        2 => SEXUAL_CONTENT,
        3 => SLURS,
        _ => &[],
    }
}

const PROFANITY: &[&str] = &[
    "arsehole*",
    "asshole*",
    "bastard*",
    "bitch*",
    "bollocks",
    "bullshit*",
    "cunt*",
    "dickhead*",
    "fuck*",
    "motherfuck*",
    "shit",
    "shithead*",
    "shits",
    "shitty",
    "twat*",
    "wanker*",
];

const SEXUAL_CONTENT: &[&str] = &[
    "blowjob*",
    "cumshot*",
    "dildo*",
    "handjob*",
    "hentai",
    "masturbat*",
    "nudes",
    "porn*",
    "pornhub",
    "rimjob*",
    "xvideos",
    "xxx",
];

const SLURS: &[&str] = &[
    "fag", "faggot*", "kike*", "retard*", "spic", "tranny", "trannies",
];
