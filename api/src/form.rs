//! Form errors: which fields of a request are wrong, and how. Spec: limits-and-errors › Errors.
//!
//! Never decides what a field may hold; handlers and the body extractor do.

use std::{borrow::Cow, collections::BTreeMap, ops::RangeInclusive};

use serde_json::{Map, Value, json};

/// How deep `errors` of a reply may nest; no body of ours nests half as deep.
const DEPTH_MAX: usize = 64;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Required,
    BadLength {
        min: usize,
        max: usize,
    },
    Min(i64),
    Max(i64),
    Choices(&'static str),
    NotSnowflake(String),
    NotInt(String),
    NotFloat(String),
    NotBool,
    NotString,
    NotList,
    NotObject,
    NotEnum(String),
    NotTimestamp(String),
    NotMatching,
    /// A fault with its own code: a rule of one endpoint.
    Other(&'static str, Cow<'static, str>),
}

impl Fault {
    /// Inner code and message.
    fn wire(&self) -> (&'static str, Cow<'static, str>) {
        match self {
            Self::Required => ("BASE_TYPE_REQUIRED", "This field is required".into()),
            Self::BadLength { min: 0, max } => (
                "BASE_TYPE_MAX_LENGTH",
                format!("Must be {max} or fewer in length.").into(),
            ),
            Self::BadLength { min, max } => (
                "BASE_TYPE_BAD_LENGTH",
                format!("Must be between {min} and {max} in length.").into(),
            ),
            Self::Min(min) => (
                "NUMBER_TYPE_MIN",
                format!("int value should be greater than or equal to {min}.").into(),
            ),
            Self::Max(max) => (
                "NUMBER_TYPE_MAX",
                format!("int value should be less than or equal to {max}.").into(),
            ),
            Self::Choices(choices) => (
                "BASE_TYPE_CHOICES",
                format!("Value must be one of {{{choices}}}.").into(),
            ),
            Self::NotSnowflake(value) => (
                "NUMBER_TYPE_COERCE",
                format!("Value \"{value}\" is not snowflake.").into(),
            ),
            Self::NotInt(value) => (
                "NUMBER_TYPE_COERCE",
                format!("Value \"{value}\" is not int.").into(),
            ),
            Self::NotFloat(value) => (
                "NUMBER_TYPE_COERCE",
                format!("Value \"{value}\" is not float.").into(),
            ),
            Self::NotBool => (
                "BOOLEAN_TYPE_CONVERT",
                "Must be either true or false.".into(),
            ),
            Self::NotString => (
                "STRING_TYPE_CONVERT",
                "Could not interpret as string.".into(),
            ),
            Self::NotList => (
                "LIST_TYPE_CONVERT",
                "Only iterables may be used in a ListType".into(),
            ),
            Self::NotObject => (
                "MODEL_TYPE_CONVERT",
                "Only dictionaries may be used in a ModelType".into(),
            ),
            Self::NotEnum(value) => (
                "ENUM_TYPE_COERCE",
                format!("Value \"{value}\" is not a valid enum value.").into(),
            ),
            Self::NotTimestamp(value) => (
                "DATE_TIME_TYPE_PARSE",
                format!("Could not parse {value}. Should be ISO8601.").into(),
            ),
            Self::NotMatching => (
                "STRING_TYPE_REGEX",
                "String value did not match validation regex.".into(),
            ),
            Self::Other(code, message) => (code, message.clone()),
        }
    }
}

/// The faults found so far, by the path of their field: `embeds.0.title`; the empty
/// path is the whole body. A field keeps its first fault only.
#[derive(Debug, Default)]
pub struct FormErrors {
    faults: BTreeMap<String, Fault>,
}

impl FormErrors {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&mut self, path: impl Into<String>, fault: Fault) {
        self.faults.entry(path.into()).or_insert(fault);
    }

    /// The faults of a form that is a field of this one.
    pub(crate) fn add_inside(&mut self, path: &str, inner: Self) {
        for (below, fault) in inner.faults {
            match below.is_empty() {
                true => self.add(path, fault),
                false => self.add(format!("{path}.{below}"), fault),
            }
        }
    }

    /// Adds the faults of another form; those already known stay.
    pub(crate) fn merge(&mut self, other: Self) {
        for (path, fault) in other.faults {
            self.add(path, fault);
        }
    }

    /// A field that is not there, unless it was there with faults inside.
    pub(crate) fn add_missing(&mut self, path: String) {
        let inside = format!("{path}.");
        if !self.faults.keys().any(|known| known.starts_with(&inside)) {
            self.add(path, Fault::Required);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// A required field; the value if it is there.
    pub fn required<'a, T>(&mut self, path: &str, value: &'a Option<T>) -> Option<&'a T> {
        if value.is_none() {
            self.add(path, Fault::Required);
        }
        value.as_ref()
    }

    /// Length in code points of what is kept: without NULs, then trimmed. Empty text where some is
    /// needed is a missing field.
    pub fn length(&mut self, path: &str, text: &str, allowed: RangeInclusive<usize>) {
        let (min, max) = (*allowed.start(), *allowed.end());
        let around = |character: char| character == '\0' || character.is_whitespace();
        let kept = text.trim_matches(around).chars();
        let length = kept.filter(|&character| character != '\0').count();
        if length == 0 && min > 0 {
            self.add(path, Fault::Required);
        } else if !allowed.contains(&length) {
            self.add(path, Fault::BadLength { min, max });
        }
    }

    /// [`Self::length`] of text that is kept with the space around it: that counts as well.
    pub fn whole_length(&mut self, path: &str, text: &str, allowed: RangeInclusive<usize>) {
        let (min, max) = (*allowed.start(), *allowed.end());
        if text.chars().count() > max {
            self.add(path, Fault::BadLength { min, max });
        } else {
            self.length(path, text, allowed);
        }
    }

    pub fn range(&mut self, path: &str, value: i64, allowed: RangeInclusive<i64>) {
        if value < *allowed.start() {
            self.add(path, Fault::Min(*allowed.start()));
        } else if value > *allowed.end() {
            self.add(path, Fault::Max(*allowed.end()));
        }
    }

    /// `errors` of the reply. Where a body holds a map its keys are in the paths, and those are
    /// whatever a client sent: full of dots, or `_errors`.
    pub fn to_json(&self) -> Value {
        let mut root = Map::new();
        'faults: for (path, fault) in &self.faults {
            let mut node = &mut root;
            let keys = path.split('.').filter(|key| !key.is_empty());
            for key in keys.take(DEPTH_MAX) {
                let child = node.entry(key).or_insert_with(|| Value::Object(Map::new()));
                let Some(child) = child.as_object_mut() else {
                    continue 'faults; // the list of faults stays
                };
                node = child;
            }
            let (code, message) = fault.wire();
            node.insert(
                "_errors".to_owned(),
                json!([{ "code": code, "message": message }]),
            );
        }
        Value::Object(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn faults_nest_by_path_and_the_first_of_a_field_stays() {
        let mut form = FormErrors::new();
        form.add("embeds.0.title", Fault::Required);
        form.add("embeds.0.title", Fault::NotBool);
        form.length("name", &"x".repeat(101), 2..=100);
        form.range("limit", 0, 1..=100);
        form.add("", Fault::NotObject);
        assert_eq!(
            form.to_json(),
            json!({
                "_errors": [{ "code": "MODEL_TYPE_CONVERT", "message": "Only dictionaries may be used in a ModelType" }],
                "embeds": { "0": { "title": { "_errors": [{ "code": "BASE_TYPE_REQUIRED", "message": "This field is required" }] } } },
                "limit": { "_errors": [{ "code": "NUMBER_TYPE_MIN", "message": "int value should be greater than or equal to 1." }] },
                "name": { "_errors": [{ "code": "BASE_TYPE_BAD_LENGTH", "message": "Must be between 2 and 100 in length." }] },
            })
        );
    }

    #[test]
    fn keys_of_a_client_nest_a_little_and_replace_no_faults() {
        let mut form = FormErrors::new();
        form.add("guilds.x", Fault::NotObject);
        form.add("guilds.x._errors", Fault::NotBool);
        form.add("guilds.x._errors.y", Fault::NotBool);
        form.add(format!("names.{}", "a.".repeat(500_000)), Fault::NotString);
        let errors = form.to_json();
        let code = &errors["guilds"]["x"]["_errors"][0]["code"];
        assert_eq!(code, "MODEL_TYPE_CONVERT");
        // Written without a limit, half a million levels would overflow the stack.
        let text = errors.to_string();
        assert!(text.contains("STRING_TYPE_CONVERT") && text.len() < 1000);
    }

    #[test]
    fn length_counts_code_points_after_trimming() {
        let mut form = FormErrors::new();
        form.length("a", " ßß ", 2..=2);
        form.length("b", "", 0..=2);
        assert!(form.is_empty());
        form.length("c", "  ", 1..=2);
        assert!(matches!(form.finish(), Err(Error::Form(_))));
    }

    #[test]
    fn what_is_not_kept_does_not_count() {
        let mut form = FormErrors::new();
        form.length("a", "\0 ß\0ß \0", 2..=2);
        assert!(form.is_empty());
        form.length("b", "\0\0", 2..=10);
        form.length("c", "ß \0", 2..=10);
        let faults = form.to_json();
        assert_eq!(faults["b"]["_errors"][0]["code"], "BASE_TYPE_REQUIRED");
        assert_eq!(faults["c"]["_errors"][0]["code"], "BASE_TYPE_BAD_LENGTH");
    }

    #[test]
    fn what_is_kept_untrimmed_counts_as_a_whole() {
        let mut form = FormErrors::new();
        form.whole_length("a", " ß", 1..=2);
        assert!(form.is_empty());
        form.whole_length("b", " ß ", 1..=2);
        form.whole_length("c", "  ", 1..=2);
        let faults = form.to_json();
        assert_eq!(faults["b"]["_errors"][0]["code"], "BASE_TYPE_BAD_LENGTH");
        assert_eq!(faults["c"]["_errors"][0]["code"], "BASE_TYPE_REQUIRED");
    }
}
