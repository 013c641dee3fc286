//! Forms that an application opens for a user: read, checked, and written as the user's client
//! gets them.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::components;
use crate::{
    extract::Form,
    form::{Fault, FormErrors},
    routes::messages,
};

pub(super) const COMPONENTS_MAX: usize = 40;
pub(super) const OPTIONS_MAX: usize = 25;
/// Of radio and checkbox groups; files of one field.
pub(super) const GROUP_MAX: usize = 10;
pub(super) const TEXT_MAX: usize = 4000;
const CUSTOM_ID_MAX: usize = 100;
const LABEL_MAX: usize = 45;
const TITLE_MAX: usize = 45;
const DESCRIPTION_MAX: usize = 100;
const PLACEHOLDER_MAX: usize = 100;
const FILE_TYPES_MAX: usize = 10;
const FILE_TYPE_LENGTH_MAX: usize = 100;

pub(super) const ROW: u64 = 1;
pub(super) const TEXT_INPUT: u64 = 4;
const TEXT_DISPLAY: u64 = 10;
pub(super) const LABEL: u64 = 18;
pub(super) const FILE_UPLOAD: u64 = 19;
pub(super) const RADIO_GROUP: u64 = 21;
pub(super) const CHECKBOX_GROUP: u64 = 22;
pub(super) const CHECKBOX: u64 = 23;

/// `data` of a callback that opens a form.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Modal {
    custom_id: Option<String>,
    title: Option<String>,
    components: Option<Vec<Value>>,
}

impl Form for Modal {
    fn check(&self, form: &mut FormErrors) {
        if let Some(id) = form.required("custom_id", &self.custom_id) {
            form.whole_length("custom_id", id, 1..=CUSTOM_ID_MAX);
        }
        if let Some(title) = form.required("title", &self.title) {
            form.whole_length("title", title, 1..=TITLE_MAX);
        }
        if let Some(list) = form.required("components", &self.components) {
            parse(list, form);
        }
    }
}

impl Modal {
    /// As the user's client gets it, and as it is remembered: every component with an id.
    pub(super) fn into_json(self) -> Value {
        // It was checked.
        let mut form = FormErrors::new();
        let components = parse(&self.components.unwrap_or_default(), &mut form);
        json!({
            "custom_id": self.custom_id.as_deref().map(clean),
            "title": self.title.as_deref().map(clean),
            "components": components,
        })
    }
}

/// Text as Postgres takes it.
fn clean(text: &str) -> String {
    text.replace('\0', "")
}

pub(super) fn kind_of(component: &Value) -> u64 {
    component["type"].as_u64().unwrap_or_default()
}

/// What is known of the components, whole if there were no faults.
fn parse(list: &[Value], form: &mut FormErrors) -> Vec<Value> {
    if !(1..=COMPONENTS_MAX).contains(&list.len()) {
        let (min, max) = (1, COMPONENTS_MAX);
        form.add("components", Fault::BadLength { min, max });
        return Vec::new();
    }
    let mut parser = Parser {
        form,
        custom_ids: HashSet::new(),
        ids: HashSet::new(),
    };
    let mut parsed = Vec::new();
    for (index, component) in list.iter().enumerate() {
        parsed.extend(parser.top(&format!("components.{index}"), component));
    }
    let (mut next, mut ids) = (1, parser.ids);
    for component in &mut parsed {
        number(component, &mut next, &mut ids);
    }
    parsed
}

/// Gives an id to every component that has none, in reading order.
fn number(component: &mut Value, next: &mut i64, taken: &mut HashSet<i64>) {
    let Value::Object(map) = component else {
        return;
    };
    if map.get("id").and_then(Value::as_i64).unwrap_or_default() == 0 {
        while !taken.insert(*next) {
            *next += 1;
        }
        map.insert("id".to_owned(), json!(*next));
    }
    if let Some(Value::Array(children)) = map.get_mut("components") {
        for child in children {
            number(child, next, taken);
        }
    }
    if let Some(child) = map.get_mut("component") {
        number(child, next, taken);
    }
}

struct Parser<'f> {
    form: &'f mut FormErrors,
    custom_ids: HashSet<String>,
    /// Given by the request.
    ids: HashSet<i64>,
}

/// A component of the request, and what becomes of it.
struct Node<'a> {
    path: &'a str,
    component: &'a Value,
    out: Map<String, Value>,
}

impl Node<'_> {
    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn put(&mut self, key: &str, value: Value) {
        self.out.insert(key.to_owned(), value);
    }
}

impl Parser<'_> {
    fn node<'a>(&mut self, path: &'a str, component: &'a Value) -> Node<'a> {
        let mut node = Node {
            path,
            component,
            out: Map::new(),
        };
        node.put("type", json!(kind_of(component)));
        let id = self.integer(&mut node, "id", 0, i32::MAX.into());
        if let Some(id) = id.filter(|id| *id != 0)
            && !self.ids.insert(id)
        {
            self.duplicate(node.at("id"), "COMPONENT_ID_DUPLICATED", "Component id");
        }
        node
    }

    fn top(&mut self, path: &str, component: &Value) -> Option<Value> {
        let mut node = self.node(path, component);
        match kind_of(component) {
            ROW => {
                let children = component["components"].as_array().map(Vec::as_slice);
                let Some([input]) = children.filter(|all| all.iter().all(is_text_input)) else {
                    let one = Fault::BadLength { min: 1, max: 1 };
                    self.form.add(node.at("components"), one);
                    return None;
                };
                let path = format!("{path}.components.0");
                let labelled = self.input(&path, input, true)?;
                node.put("components", json!([labelled]));
            }
            TEXT_DISPLAY => self.text(&mut node, "content", 1, TEXT_MAX),
            LABEL => {
                self.text(&mut node, "label", 1, LABEL_MAX);
                self.text(&mut node, "description", 0, DESCRIPTION_MAX);
                let path = format!("{path}.component");
                let input = self.input(&path, &component["component"], false)?;
                node.put("component", input);
            }
            _ => {
                let choices = Fault::Choices("(1, 10, 18)");
                self.form.add(node.at("type"), choices);
                return None;
            }
        }
        Some(Value::Object(node.out))
    }

    /// A field; one in a row brings its label itself.
    fn input(&mut self, path: &str, input: &Value, has_label: bool) -> Option<Value> {
        let kind = kind_of(input);
        let mut node = self.node(path, input);
        let is_known = kind == TEXT_INPUT
            || components::is_select(kind)
            || matches!(kind, FILE_UPLOAD | RADIO_GROUP | CHECKBOX_GROUP | CHECKBOX);
        if !is_known {
            let choices = "(3, 4, 5, 6, 7, 8, 19, 21, 22, 23)";
            self.form.add(node.at("type"), Fault::Choices(choices));
            return None;
        }
        if components::is_select(kind) {
            let select = messages::parse_select(path, input, self.form)?;
            if let Value::Object(mut select) = select {
                // Selects of messages may be switched off, those of forms left out.
                select.remove("disabled");
                select.remove("id");
                node.out.extend(select);
            }
        } else {
            self.text(&mut node, "custom_id", 1, CUSTOM_ID_MAX);
        }
        let custom_id = node.out.get("custom_id").and_then(Value::as_str);
        if let Some(id) = custom_id.map(str::to_owned)
            && !self.custom_ids.insert(id)
        {
            let code = "COMPONENT_CUSTOM_ID_DUPLICATED";
            self.duplicate(node.at("custom_id"), code, "Component custom id");
        }
        if kind != CHECKBOX {
            self.flag(&mut node, "required");
        }
        match kind {
            TEXT_INPUT => {
                if has_label {
                    self.text(&mut node, "label", 1, LABEL_MAX);
                }
                let max = TEXT_MAX as i64;
                let least = self.integer(&mut node, "min_length", 0, max).unwrap_or(0);
                let most = self.integer(&mut node, "max_length", 1, max);
                self.ordered(node.at("min_length"), least, most.unwrap_or(max));
                self.text(&mut node, "value", 0, TEXT_MAX);
                self.text(&mut node, "placeholder", 0, PLACEHOLDER_MAX);
                match input["style"].as_u64() {
                    Some(style @ 1..=2) => node.put("style", json!(style)),
                    _ => self.form.add(node.at("style"), Fault::Choices("(1, 2)")),
                }
            }
            RADIO_GROUP => self.options(&mut node, 2),
            CHECKBOX_GROUP => {
                self.bounds(&mut node, GROUP_MAX as i64);
                self.options(&mut node, 1);
            }
            CHECKBOX => self.flag(&mut node, "default"),
            FILE_UPLOAD => {
                self.bounds(&mut node, 1);
                self.file_types(&mut node);
            }
            _ => {}
        }
        Some(Value::Object(node.out))
    }

    /// How many values there must and may be: one, and `usual`, if nothing is said.
    fn bounds(&mut self, node: &mut Node<'_>, usual: i64) {
        let max = GROUP_MAX as i64;
        let least = self.integer(node, "min_values", 0, max).unwrap_or(1);
        let most = self.integer(node, "max_values", 1, max);
        self.ordered(node.at("min_values"), least, most.unwrap_or(usual));
    }

    /// Nobody could fill in a field that wants more than it takes.
    fn ordered(&mut self, path: String, least: i64, most: i64) {
        if least > most {
            self.form.add(path, Fault::Max(most));
        }
    }

    fn options(&mut self, node: &mut Node<'_>, min: usize) {
        let options = node.component["options"].as_array().map(Vec::as_slice);
        let options = options.unwrap_or_default();
        if !(min..=GROUP_MAX).contains(&options.len()) {
            let max = GROUP_MAX;
            let fault = Fault::BadLength { min, max };
            self.form.add(node.at("options"), fault);
            return;
        }
        let mut parsed = Vec::new();
        for (index, option) in options.iter().enumerate() {
            let path = format!("{}.options.{index}", node.path);
            let mut entry = Node {
                path: &path,
                component: option,
                out: Map::new(),
            };
            self.text(&mut entry, "label", 1, 100);
            self.text(&mut entry, "value", 1, 100);
            self.text(&mut entry, "description", 0, 100);
            self.flag(&mut entry, "default");
            parsed.push(Value::Object(entry.out));
        }
        node.put("options", Value::Array(parsed));
    }

    /// Kinds of files that the client offers to choose.
    fn file_types(&mut self, node: &mut Node<'_>) {
        let given = match &node.component["file_types"] {
            Value::Null => return,
            Value::Array(given) => given,
            _ => {
                self.form.add(node.at("file_types"), Fault::NotList);
                return;
            }
        };
        if given.len() > FILE_TYPES_MAX {
            let (min, max) = (0, FILE_TYPES_MAX);
            let fault = Fault::BadLength { min, max };
            self.form.add(node.at("file_types"), fault);
            return;
        }
        let mut types = Vec::new();
        for (index, kind) in given.iter().enumerate() {
            let path = format!("{}.file_types.{index}", node.path);
            match kind {
                Value::String(kind) => {
                    self.form
                        .whole_length(&path, kind, 1..=FILE_TYPE_LENGTH_MAX);
                    types.push(clean(kind));
                }
                _ => self.form.add(path, Fault::NotString),
            }
        }
        node.put("file_types", json!(types));
    }

    /// A text; with `min` 0 it may be missing.
    fn text(&mut self, node: &mut Node<'_>, key: &str, min: usize, max: usize) {
        let path = node.at(key);
        match &node.component[key] {
            Value::String(text) => {
                self.form.whole_length(&path, text, min..=max);
                node.put(key, json!(clean(text)));
            }
            Value::Null if min == 0 => {}
            Value::Null => self.form.add(path, Fault::Required),
            _ => self.form.add(path, Fault::NotString),
        }
    }

    fn flag(&mut self, node: &mut Node<'_>, key: &str) {
        match &node.component[key] {
            Value::Null => {}
            Value::Bool(flag) => node.put(key, json!(flag)),
            _ => self.form.add(node.at(key), Fault::NotBool),
        }
    }

    fn integer(&mut self, node: &mut Node<'_>, key: &str, min: i64, max: i64) -> Option<i64> {
        let value = &node.component[key];
        if value.is_null() {
            return None;
        }
        let Some(number) = value.as_i64() else {
            let shown = value.to_string().chars().take(100).collect();
            self.form.add(node.at(key), Fault::NotInt(shown));
            return None;
        };
        self.form.range(&node.at(key), number, min..=max);
        node.put(key, json!(number));
        Some(number)
    }

    fn duplicate(&mut self, path: String, code: &'static str, what: &str) {
        let message = format!("{what} cannot be duplicated");
        self.form.add(path, Fault::Other(code, message.into()));
    }
}

fn is_text_input(component: &Value) -> bool {
    kind_of(component) == TEXT_INPUT
}
