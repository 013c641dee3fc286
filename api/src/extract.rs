//! Body, path and query of a request as typed values; what does not fit becomes a form error.
//!
//! Never reads the database: access is the handlers' business.

use std::collections::BTreeMap;

use axum::{
    extract::{FromRequest, FromRequestParts, RawPathParams, Request, path},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use guildhall_shared::{Id, error_code::ErrorCode, id::marker};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;

use crate::{
    error::{Error, Result, json_response},
    form::{Fault, FormErrors},
};

/// A request body that can say what is wrong with it.
///
/// `check` runs after the types fit; its faults are reported together with type faults.
/// Fields that must be there are `Option`s checked by [`FormErrors::required`], so that
/// one missing field does not hide the other faults.
pub(crate) trait Form: DeserializeOwned {
    fn check(&self, _form: &mut FormErrors) {}
}

/// A JSON body, parsed and checked; as an answer, a JSON reply.
///
/// An empty body reads as `{}`. Errors: 50109 for what is no JSON, 40005, and 50035 with
/// all faults at once.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Form, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let is_json = content_type_may_be_json(request.headers());
        let body = Bytes::from_request(request, state).await.map_err(|e| {
            if e.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
                ErrorCode::RequestEntityTooLarge
            } else {
                ErrorCode::BadRequest
            }
        })?;
        if body.is_empty() {
            return parse_form(b"{}").map(Self);
        }
        if !is_json {
            let message = "Expected \"Content-Type\" header to be one of {'application/json'}.";
            let fault = Fault::Other("CONTENT_TYPE_INVALID", message.into());
            return Err(FormErrors::one("", fault));
        }
        parse_form(&body).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        json_response(StatusCode::OK, &self.0)
    }
}

/// No content type counts as JSON.
fn content_type_may_be_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let Ok(value) = value.to_str() else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.is_empty() || essence.eq_ignore_ascii_case("application/json")
}

/// Whether a body is the fields of a form, as browsers and `curl -d` write them.
pub(crate) fn is_urlencoded(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let essence = value
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next());
    essence.is_some_and(|kind| {
        kind.trim()
            .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    })
}

/// Parses `body`; the usual good one in a single pass.
pub(crate) fn parse_form<T: Form>(body: &[u8]) -> Result<T> {
    let mut form = FormErrors::new();
    // A derived struct would take its fields from a list as well.
    let is_list = body.trim_ascii_start().first() == Some(&b'[');
    if is_list && !wants_list::<T>() && serde_json::from_slice::<IgnoredAny>(body).is_ok() {
        return Err(FormErrors::one("", Fault::NotObject));
    }
    let value: T = match serde_json::from_slice(body) {
        Ok(value) => value,
        // Some values of the wrong type count as wrong syntax: the tree tells.
        Err(_) => {
            let tree = serde_json::from_slice(body).map_err(|_| ErrorCode::InvalidJson)?;
            match parse_despite_faults(with_whole_numbers(tree), &mut form) {
                Some(value) => value,
                None => return Err(Error::Form(form)),
            }
        }
    };
    value.check(&mut form);
    form.finish()?;
    Ok(value)
}

fn wants_list<T: DeserializeOwned>() -> bool {
    let refused = serde_json::from_str::<T>("{}").err();
    refused.is_some_and(|error| error.to_string().contains("expected a sequence"))
}

/// Whole numbers that were written as fractions (`1.0`) as such: discord.py says so how many hours a
/// poll lasts.
fn with_whole_numbers(tree: Value) -> Value {
    /// From here on not every whole number is a fraction of its own.
    const WHOLE_MAX: f64 = (1_u64 << 53) as f64;
    match tree {
        Value::Number(number) if number.is_f64() => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < WHOLE_MAX => {
                Value::from(float as i64)
            }
            _ => Value::Number(number),
        },
        Value::Array(list) => list.into_iter().map(with_whole_numbers).collect(),
        Value::Object(map) => {
            let map = map.into_iter();
            map.map(|(key, value)| (key, with_whole_numbers(value)))
                .collect()
        }
        other => other,
    }
}

/// Parses `tree` again and again, each time without the field that did not fit, so that
/// every fault is found. `None` once nothing can be left out any more.
fn parse_despite_faults<T: DeserializeOwned>(mut tree: Value, form: &mut FormErrors) -> Option<T> {
    const FAULTS_MAX: usize = 32;
    for _ in 0..FAULTS_MAX {
        let error = match serde_path_to_error::deserialize::<_, T>(&tree) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let keys: Vec<String> = error.path().iter().filter_map(segment_key).collect();
        let message = error.into_inner().to_string();
        if let Some(missing) = between(&message, "missing field `", "`") {
            let path = keys.iter().map(String::as_str).chain([missing]);
            form.add_missing(path.collect::<Vec<_>>().join("."));
            if keys.is_empty() {
                return None;
            }
            remove_at(&mut tree, &keys)?;
            continue;
        }
        let removed = remove_at(&mut tree, &keys)?;
        form.add(keys.join("."), fault(&message, &removed));
        if keys.is_empty() {
            return None;
        }
    }
    None
}

fn segment_key(segment: &serde_path_to_error::Segment) -> Option<String> {
    use serde_path_to_error::Segment;
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// Takes out what stands at `keys`. A list that holds it is emptied, because the
/// positions of later elements must not shift.
fn remove_at(tree: &mut Value, keys: &[String]) -> Option<Value> {
    let Some((last, parents)) = keys.split_last() else {
        return Some(tree.clone());
    };
    let mut node = &mut *tree;
    for key in parents {
        node = match node {
            Value::Object(map) => map.get_mut(key)?,
            Value::Array(list) => list.get_mut(key.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    match node {
        Value::Object(map) => map.remove(last),
        Value::Array(list) => {
            let value = list.get(last.parse::<usize>().ok()?)?.clone();
            list.clear();
            Some(value)
        }
        _ => None,
    }
}

/// The fault behind a message of serde, for the value that caused it.
fn fault(message: &str, value: &Value) -> Fault {
    let shown = || match value {
        Value::String(text) => text.chars().take(100).collect(),
        Value::Array(_) | Value::Object(_) => "{}".to_owned(),
        other => other.to_string(),
    };
    let expected = message
        .split_once("expected ")
        .map_or(message, |(_, what)| what);
    let starts = |what: &str| expected.starts_with(what);
    if message.contains("snowflake") {
        Fault::NotSnowflake(shown())
    } else if value.is_null() {
        Fault::Required
    } else if message.contains("ISO 8601") {
        Fault::NotTimestamp(shown())
    } else if message.contains("unknown variant") || message.contains("untagged enum") {
        Fault::NotEnum(shown())
    } else if let Some((min, max)) = integer_bounds(expected) {
        match value.as_f64() {
            Some(number) if number.fract() == 0.0 && number < min as f64 => Fault::Min(min),
            Some(number) if number.fract() == 0.0 && number > max as f64 => Fault::Max(max),
            _ => Fault::NotInt(shown()),
        }
    } else if message.contains("permissions") || starts("an integer") {
        Fault::NotInt(shown())
    } else if starts("f64") || starts("f32") {
        Fault::NotFloat(shown())
    } else if starts("a boolean") {
        Fault::NotBool
    } else if starts("a string") || starts("a borrowed string") {
        Fault::NotString
    } else if starts("a sequence") || starts("an array") {
        Fault::NotList
    } else if starts("a map") || starts("struct ") {
        Fault::NotObject
    } else {
        Fault::NotEnum(shown())
    }
}

fn integer_bounds(expected: &str) -> Option<(i64, i64)> {
    Some(match expected.split_whitespace().next()? {
        "u8" => (0, u8::MAX.into()),
        "u16" => (0, u16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "u64" | "usize" => (0, i64::MAX),
        "i8" => (i8::MIN.into(), i8::MAX.into()),
        "i16" => (i16::MIN.into(), i16::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "i64" => (i64::MIN, i64::MAX),
        _ => return None,
    })
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(inner, _)| inner)
}

/// Parameters of the path. Errors: 50035 naming each id that is no snowflake; else 404.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        if let Ok(path::Path(value)) = path::Path::<T>::from_request_parts(parts, state).await {
            return Ok(Self(value));
        }
        let mut form = FormErrors::new();
        if let Ok(params) = RawPathParams::from_request_parts(parts, state).await {
            for (name, value) in &params {
                if name.ends_with("_id") && value.parse::<Id<marker::Any>>().is_err() {
                    form.add(name, Fault::NotSnowflake(value.chars().take(100).collect()));
                }
            }
        }
        form.finish()?;
        Err(ErrorCode::NotFound.into())
    }
}

/// The query string, by the same rules as a body. Of a repeated key the last value counts.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: Form, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        parse_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn parse_query<T: Form>(query: &str) -> Result<T> {
    let mut form = FormErrors::new();
    let mut pairs: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    loop {
        let input = pairs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let input = serde::de::value::MapDeserializer::<_, serde::de::value::Error>::new(
            input.map(|(key, value)| (key, QueryValue(value))),
        );
        let error = match serde_path_to_error::deserialize::<_, T>(input) {
            Ok(value) => {
                value.check(&mut form);
                form.finish()?;
                return Ok(value);
            }
            Err(error) => error,
        };
        let key: Option<String> = error.path().iter().find_map(segment_key);
        let message = error.into_inner().to_string();
        if let Some(missing) = between(&message, "missing field `", "`") {
            form.add(missing, Fault::Required);
            return Err(Error::Form(form));
        }
        let Some((name, value)) = key.and_then(|key| pairs.remove_entry(&key)) else {
            form.add("", Fault::NotObject);
            return Err(Error::Form(form));
        };
        form.add(name, fault(&message, &Value::String(value)));
    }
}

/// Text of a query that reads as whatever type is wanted.
struct QueryValue<'a>(&'a str);

impl<'de> serde::de::IntoDeserializer<'de, serde::de::value::Error> for QueryValue<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parse_number {
    ($($method:ident $visit:ident $name:literal),*) => {
        $(fn $method<V: serde::de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            match self.0.parse() {
                Ok(number) => visitor.$visit(number),
                Err(_) => Err(serde::de::Error::invalid_value(
                    serde::de::Unexpected::Str(self.0),
                    &$name,
                )),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for QueryValue<'de> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: serde::de::Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_borrowed_str(self.0)
    }

    /// Spec: limits-and-errors › HTTP basics, query booleans.
    fn deserialize_bool<V: serde::de::Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            "True" | "true" | "1" => visitor.visit_bool(true),
            "False" | "false" | "0" => visitor.visit_bool(false),
            _ => Err(serde::de::Error::invalid_value(
                serde::de::Unexpected::Str(self.0),
                &"a boolean",
            )),
        }
    }

    fn deserialize_option<V: serde::de::Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: serde::de::Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    parse_number!(
        deserialize_u8 visit_u8 "u8", deserialize_u16 visit_u16 "u16",
        deserialize_u32 visit_u32 "u32", deserialize_u64 visit_u64 "u64",
        deserialize_i8 visit_i8 "i8", deserialize_i16 visit_i16 "i16",
        deserialize_i32 visit_i32 "i32", deserialize_i64 visit_i64 "i64",
        deserialize_f32 visit_f32 "f32", deserialize_f64 visit_f64 "f64"
    );

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

/// Reads an `after` of a query. Libraries begin with 0, which is no id and before all of them.
pub(crate) fn from_zero<'de, D, T>(deserializer: D) -> Result<Option<Id<T>>, D::Error>
where
    D: Deserializer<'de>,
{
    let after = Option::<u64>::deserialize(deserializer)?;
    Ok(after.and_then(|after| Id::new(after.clamp(1, i64::MAX as u64))))
}

/// Reads a field where null means the same as absence.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Default)]
    #[serde(default)]
    struct Sample {
        name: Option<String>,
        limit: Option<u8>,
        tts: Option<bool>,
        parent_id: Option<Id<marker::Channel>>,
        inner: Vec<Inner>,
        #[serde(deserialize_with = "from_zero")]
        after: Option<Id<marker::Channel>>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        value: i32,
    }

    impl Form for Sample {
        fn check(&self, form: &mut FormErrors) {
            if let Some(name) = form.required("name", &self.name) {
                form.length("name", name, 1..=5);
            }
        }
    }

    fn errors<T: std::fmt::Debug>(result: Result<T>) -> Value {
        match result {
            Err(Error::Form(form)) => form.to_json(),
            other => panic!("no form error: {other:?}"),
        }
    }

    fn code(errors: &Value, pointer: &str) -> String {
        let at = format!("{pointer}/_errors/0/code");
        errors
            .pointer(&at)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    }

    #[test]
    fn a_whole_number_may_be_written_as_a_fraction() {
        let body = br#"{"name":"a","limit":2.0,"inner":[{"value":-3.0}]}"#;
        let sample = parse_form::<Sample>(body).unwrap();
        assert_eq!((sample.limit, sample.inner[0].value), (Some(2), -3));
        for limit in ["2.5", "1e300"] {
            let body = format!(r#"{{"name":"a","limit":{limit}}}"#);
            let errors = errors(parse_form::<Sample>(body.as_bytes()));
            assert!(!code(&errors, "/limit").is_empty(), "{limit}");
        }
    }

    #[test]
    fn all_faults_of_a_body_are_reported_together() {
        let body = json!({
            "name": "much too long", "limit": 300, "tts": "yes", "parent_id": "general",
            "inner": [{ "value": 1 }, { "value": "x" }], "unknown": 1,
        });
        let errors = errors(parse_form::<Sample>(body.to_string().as_bytes()));
        assert_eq!(code(&errors, "/name"), "BASE_TYPE_BAD_LENGTH");
        assert_eq!(code(&errors, "/limit"), "NUMBER_TYPE_MAX");
        assert_eq!(code(&errors, "/tts"), "BOOLEAN_TYPE_CONVERT");
        assert_eq!(code(&errors, "/parent_id"), "NUMBER_TYPE_COERCE");
        assert_eq!(code(&errors, "/inner/1/value"), "NUMBER_TYPE_COERCE");
    }

    #[test]
    fn nulls_and_unknown_fields_are_fine() {
        let body = br#"{"name":"a","limit":null,"x":{"y":[]}}"#;
        assert_eq!(
            parse_form::<Sample>(body).unwrap(),
            Sample {
                name: Some("a".to_owned()),
                ..Sample::default()
            }
        );
    }

    #[test]
    fn what_is_no_json_is_refused_as_such() {
        for body in ["{", "", "{\"a\":}", "nope", "\u{0}"] {
            let error = parse_form::<Sample>(body.as_bytes()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidJson, "{body}");
        }
        assert_eq!(
            code(&errors(parse_form::<Sample>(b"7")), ""),
            "MODEL_TYPE_CONVERT"
        );
        assert_eq!(
            code(&errors(parse_form::<Sample>(b" [\"a\"]")), ""),
            "MODEL_TYPE_CONVERT"
        );
        assert_eq!(
            code(&errors(parse_form::<Sample>(b"{}")), "/name"),
            "BASE_TYPE_REQUIRED"
        );
    }

    #[test]
    fn queries_read_booleans_numbers_and_ids() {
        let sample: Sample = parse_query("name=a+b&tts=True&limit=5&parent_id=7&limit=6").unwrap();
        assert_eq!((sample.tts, sample.limit), (Some(true), Some(6)));
        assert_eq!(sample.name.as_deref(), Some("a b"));
        for (query, after) in [("", None), ("&after=0", Some(1)), ("&after=7", Some(7))] {
            let sample: Sample = parse_query(&format!("name=a{query}")).unwrap();
            assert_eq!(sample.after.map(Id::to_db), after);
        }
        let errors = errors(parse_query::<Sample>("name=a&tts=2&limit=-1&parent_id=x"));
        assert_eq!(code(&errors, "/tts"), "BOOLEAN_TYPE_CONVERT");
        assert_eq!(code(&errors, "/limit"), "NUMBER_TYPE_COERCE");
        assert_eq!(code(&errors, "/parent_id"), "NUMBER_TYPE_COERCE");
    }

    #[test]
    fn a_query_of_very_many_keys_takes_no_time_per_pair_of_them() {
        let keys: Vec<String> = (0..300_000).map(|key| format!("k{key}")).collect();
        let sample: Sample = parse_query(&format!("name=a&{}", keys.join("&"))).unwrap();
        assert_eq!(sample.name.as_deref(), Some("a"));
    }

    proptest::proptest! {
        #[test]
        fn no_body_or_query_panics(body: Vec<u8>, query: String) {
            let _ = parse_form::<Sample>(&body);
            let _ = parse_query::<Sample>(&query);
        }
    }
}
