//! Single fields of components, read with their faults.

use std::ops::RangeInclusive;

use guildhall_shared::{Id, id::marker};
use serde_json::Value;

use super::{super::content::storable, Node, Parser};
use crate::form::Fault;

impl Parser<'_> {
    pub(super) fn children<'a>(
        &mut self,
        node: &Node<'a>,
        key: &str,
        allowed: RangeInclusive<usize>,
    ) -> Option<&'a [Value]> {
        let (min, max) = (*allowed.start(), *allowed.end());
        match node.value(key) {
            None => self.form.add(node.at(key), Fault::Required),
            Some(Value::Array(list)) if allowed.contains(&list.len()) => return Some(list),
            Some(Value::Array(_)) => self.form.add(node.at(key), Fault::BadLength { min, max }),
            Some(_) => self.form.add(node.at(key), Fault::NotList),
        }
        None
    }

    pub(super) fn text(
        &mut self,
        node: &Node<'_>,
        key: &str,
        allowed: RangeInclusive<usize>,
        required: bool,
    ) -> Option<String> {
        match node.value(key) {
            Some(Value::String(text)) => {
                self.form.whole_length(&node.at(key), text, allowed);
                Some(storable(text))
            }
            Some(_) => {
                self.form.add(node.at(key), Fault::NotString);
                None
            }
            None => {
                if required {
                    self.form.add(node.at(key), Fault::Required);
                }
                None
            }
        }
    }

    pub(super) fn integer(
        &mut self,
        node: &Node<'_>,
        key: &str,
        allowed: RangeInclusive<i64>,
    ) -> Option<i64> {
        let value = node.value(key)?;
        let Some(number) = value.as_i64() else {
            let shown = value.to_string().chars().take(100).collect();
            self.form.add(node.at(key), Fault::NotInt(shown));
            return None;
        };
        self.form.range(&node.at(key), number, allowed);
        Some(number)
    }

    pub(super) fn flag(&mut self, node: &Node<'_>, key: &str) -> Option<bool> {
        let value = node.value(key)?;
        if value.as_bool().is_none() {
            self.form.add(node.at(key), Fault::NotBool);
        }
        value.as_bool()
    }

    pub(super) fn snowflake(
        &mut self,
        node: &Node<'_>,
        key: &str,
        required: bool,
    ) -> Option<Id<marker::Any>> {
        let Some(value) = node.value(key) else {
            if required {
                self.form.add(node.at(key), Fault::Required);
            }
            return None;
        };
        match serde_json::from_value(value.clone()) {
            Ok(id) => Some(id),
            Err(_) => {
                let shown = value.to_string().chars().take(100).collect();
                self.form.add(node.at(key), Fault::NotSnowflake(shown));
                None
            }
        }
    }
}
