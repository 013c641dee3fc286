//! What was proved of each operation, and the page that shows it.

use std::{collections::BTreeMap, fmt::Write, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use guildhall_spec::libraries;
use reqwest::Method;
use serde_json::Value;

use super::{
    NOTHING,
    events::EventBook,
    operations::{OPERATIONS, Operation},
    world::{Person, World},
};
use crate::rest::{Reply, Rest};

/// An event that has not come after this long never will.
const EVENT_WAIT: Duration = Duration::from_secs(15);

/// Whether one of the three questions was asked of an operation, and what spoke against it.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    checks: usize,
    faults: Vec<String>,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.checks > 0 && self.faults.is_empty()
    }

    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    pub(super) fn note(&mut self, fits: bool, what: impl FnOnce() -> String) {
        self.checks += 1;
        if !fits {
            self.faults.push(what());
        }
    }
}

/// The checks of one operation.
#[derive(Debug, Clone)]
pub struct Proof {
    operation: &'static Operation,
    pub answers: Verdict,
    pub acts: Verdict,
    /// 401 without a token.
    pub anonymous: Verdict,
    /// Everything else that is to be refused.
    pub refuses: Verdict,
    /// Of the events seen on the way.
    events: Vec<(String, Question, Option<String>)>,
}

/// What was asked of an event.
#[derive(Debug, Clone, Copy)]
enum Question {
    Emitted,
    Reaches,
}

impl Proof {
    /// The answer to a valid request; its body.
    pub fn answers(&mut self, reply: Reply) -> Value {
        let faults = match self.operation.success.contains(&reply.status) {
            true => faults_of(self.operation.id, &reply),
            false => vec![format!("status {}: {}", reply.status, reply.body)],
        };
        self.answers.note(faults.is_empty(), || faults.join("; "));
        reply.body
    }

    /// A following read shows the effect; reads show what they should.
    pub fn acts(&mut self, shown: bool, what: &str) {
        self.acts.note(shown, || format!("not so: {what}"));
    }

    /// Each of these people gets a matching event; the last one's body comes back.
    pub async fn event(
        &mut self,
        people: &[&Person],
        name: &str,
        matches: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut body = Value::Null;
        for person in people {
            let found = person.event(name, &matches, EVENT_WAIT).await;
            let fault = format!("{name} did not reach {}", person.role);
            self.acts.note(found.is_some(), || fault.clone());
            let fault = found.is_none().then_some(fault);
            self.events
                .push((name.to_owned(), Question::Emitted, fault));
            body = found.unwrap_or_default();
        }
        body
    }

    /// None of these people has got a matching event, though later ones have reached them.
    pub async fn nobody_else(
        &mut self,
        people: &[&Person],
        name: &str,
        matches: impl Fn(&Value) -> bool,
    ) {
        for person in people {
            person.catch_up().await;
            let leaked = person.has(name, &matches);
            let fault = format!("{name} reached {}", person.role);
            self.acts.note(!leaked, || fault.clone());
            let fault = leaked.then_some(fault);
            self.events
                .push((name.to_owned(), Question::Reaches, fault));
        }
    }

    /// The answer is this error.
    pub fn refuses(&mut self, reply: Reply, status: u16, code: u64) {
        let fits = (reply.status, reply.code()) == (status, code);
        self.refuses.note(fits, || {
            let (got, body) = (reply.status, &reply.body);
            format!("not {status} with {code}, but {got}: {body}")
        });
    }

    /// Whoever has a token gets an answer: nothing but a missing token is refused.
    pub fn refuses_no_more(&mut self) {
        self.refuses.note(true, String::new);
    }

    /// The answer is a form error with this code at this place (`name`, `embeds.0.title`).
    pub fn faults(&mut self, reply: Reply, path: &str, code: &str) {
        let keys = path.split('.').filter(|key| !key.is_empty());
        let errors = &reply.body["errors"];
        let node = keys.fold(errors, |node, key| match node {
            Value::Array(list) => key
                .parse()
                .ok()
                .and_then(|index: usize| list.get(index))
                .unwrap_or(&Value::Null),
            node => &node[key],
        });
        let fits = reply.status == 400
            && reply.code() == 50035
            && node["_errors"][0]["code"].as_str() == Some(code);
        self.refuses.note(fits, || {
            format!("no {code} at {path:?}: {} {}", reply.status, reply.body)
        });
    }
}

/// Everything that was proved.
#[derive(Debug, Default)]
pub struct Book {
    proofs: BTreeMap<&'static str, Proof>,
    /// Frames that broke a rule of the wire or that twilight could not read, and events of the
    /// bot in which another library misses something.
    pub wire_faults: Vec<String>,
    pub events: EventBook,
}

/// How many operations passed each question, and all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Score {
    pub of: usize,
    pub answers: usize,
    pub acts: usize,
    pub refuses: usize,
    pub whole: usize,
}

impl Book {
    /// Runs one case. Its checks add to those already made of the operation.
    ///
    /// # Panics
    /// If no operation has this id.
    pub async fn prove(&mut self, id: &str, case: impl AsyncFnOnce(&mut Proof)) {
        let operation = match Operation::find(id) {
            Some(operation) => operation,
            None => panic!("no operation {id}"),
        };
        let proof = self.proof(operation);
        let ended = AssertUnwindSafe(case(proof)).catch_unwind().await;
        if ended.is_err() {
            for verdict in [&mut proof.answers, &mut proof.acts, &mut proof.refuses] {
                verdict.note(false, || "the case broke off".to_owned());
            }
        }
        for (name, question, fault) in std::mem::take(&mut proof.events) {
            let Some(event) = self.events.of(&name) else {
                continue;
            };
            let verdict = match question {
                Question::Emitted => &mut event.emitted,
                Question::Reaches => &mut event.reaches,
            };
            verdict.note(fault.is_none(), || fault.unwrap_or_default());
        }
    }

    fn proof(&mut self, operation: &'static Operation) -> &mut Proof {
        self.proofs.entry(operation.id).or_insert_with(|| Proof {
            operation,
            answers: Verdict::default(),
            acts: Verdict::default(),
            anonymous: Verdict::default(),
            refuses: Verdict::default(),
            events: Vec::new(),
        })
    }

    /// Asks every operation that needs a token without one. What is answered 404 is not there.
    pub(super) async fn ask_without_token(&mut self, nobody: &Rest) {
        for operation in OPERATIONS
            .iter()
            .filter(|operation| operation.needs_token())
        {
            let path = fill(operation.path);
            let method = Method::from_bytes(operation.method.as_bytes()).unwrap_or_default();
            let reply = nobody.call(method, &path, None).await;
            let fits = (reply.status, reply.code()) == (401, 0);
            self.proof(operation).anonymous.note(fits, || {
                format!("not 401 without a token, but {}", reply.status)
            });
        }
    }

    pub(super) fn note_wire_faults(&mut self, world: &World) {
        for person in world.people() {
            self.wire_faults
                .extend(person.session.log().faults.iter().cloned());
        }
        for dispatch in &world.bot.session.log().dispatches {
            let missed = libraries::faults(dispatch.t(), dispatch.d());
            self.wire_faults.extend(missed);
        }
    }

    pub fn score(&self, counts: impl Fn(&Operation) -> bool) -> Score {
        let mut score = Score::default();
        for operation in OPERATIONS.iter().filter(|operation| counts(operation)) {
            score.of += 1;
            let Some(proof) = self.proofs.get(operation.id) else {
                continue;
            };
            let [answers, acts, refuses] = passed(operation, proof);
            score.answers += usize::from(answers);
            score.acts += usize::from(acts);
            score.refuses += usize::from(refuses);
            score.whole += usize::from(answers && acts && refuses);
        }
        score
    }

    /// What failed, a line each.
    pub fn faults(&self) -> Vec<String> {
        let mut lines = self.wire_faults.clone();
        for (id, proof) in &self.proofs {
            for (question, verdict) in [
                ("answers", &proof.answers),
                ("acts", &proof.acts),
                ("refuses", &proof.anonymous),
                ("refuses", &proof.refuses),
            ] {
                for fault in verdict.faults() {
                    lines.push(format!("{id} {question}: {fault}"));
                }
            }
        }
        lines.extend(self.events.faults());
        lines
    }

    /// What a page made earlier claims and is no longer so, with what speaks against it.
    pub fn regressions(&self, earlier: &str) -> Vec<String> {
        let page = self.page();
        let now: BTreeMap<&str, [bool; 3]> = page.lines().filter_map(read_row).collect();
        let mut lines = Vec::new();
        for (id, claimed) in earlier.lines().filter_map(read_row) {
            let found = now.get(id).copied().unwrap_or_default();
            for (question, (claimed, found)) in ["answers", "acts", "refuses"]
                .iter()
                .zip(claimed.into_iter().zip(found))
            {
                if claimed && !found {
                    lines.push(format!("{id} no longer {question}"));
                }
            }
        }
        let broken = |fault: &String| {
            let id = fault.split(' ').next();
            lines.iter().any(|line| line.split(' ').next() == id)
        };
        let why: Vec<String> = self.faults().into_iter().filter(broken).collect();
        lines.extend(why);
        lines.extend(self.events.regressions(earlier));
        lines
    }

    /// The page, in Markdown: scores and a row for each operation, then for each event.
    pub fn page(&self) -> String {
        let mut page = String::from(HEAD);
        for (what, score) in [
            (
                "official, tier 1",
                self.score(|op| op.official && op.tier == 1),
            ),
            (
                "official, tier 2",
                self.score(|op| op.official && op.tier == 2),
            ),
            ("**official, all**", self.score(|op| op.official)),
            (
                "user clients and documented extras",
                self.score(|op| !op.official),
            ),
        ] {
            let Score {
                of,
                answers,
                acts,
                refuses,
                whole,
            } = score;
            let _ = writeln!(
                page,
                "| {what} | {of} | {answers} | {acts} | {refuses} | {whole} |"
            );
        }
        page.push_str(TABLE);
        for operation in OPERATIONS.iter() {
            let marks = match self.proofs.get(operation.id) {
                Some(proof) => {
                    passed(operation, proof).map(|passed| if passed { "yes" } else { "-" })
                }
                None => ["-"; 3],
            };
            let Operation {
                id,
                method,
                path,
                tier,
                ..
            } = operation;
            let [answers, acts, refuses] = marks;
            let _ = writeln!(
                page,
                "| {id} | {method} `{path}` | {tier} | {answers} | {acts} | {refuses} |"
            );
        }
        page.push_str(&self.events.page());
        page
    }
}

/// What the official schema does not take of an answer, and what libraries miss in it.
fn faults_of(operation: &str, reply: &Reply) -> Vec<String> {
    let mut faults = guildhall_spec::faults(operation, reply.status, &reply.body);
    if guildhall_spec::has_body(operation, reply.status) {
        faults.extend(libraries::faults(operation, &reply.body));
    }
    faults
}

fn passed(operation: &Operation, proof: &Proof) -> [bool; 3] {
    let anonymous = proof.anonymous.passed() || !operation.needs_token();
    [
        proof.answers.passed(),
        proof.acts.passed(),
        anonymous && proof.refuses.passed(),
    ]
}

/// Operation and marks of a row of the page.
fn read_row(row: &str) -> Option<(&str, [bool; 3])> {
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    match cells.as_slice() {
        ["", id, route, _, answers, acts, refuses, ""] if route.contains('`') => {
            Some((id, [answers, acts, refuses].map(|mark| *mark == "yes")))
        }
        _ => None,
    }
}

/// A path with an id, a code or an emoji in each place.
fn fill(path: &str) -> String {
    let mut filled = String::new();
    for (number, part) in path.split('{').enumerate() {
        match part.split_once('}') {
            Some((name, rest)) if number > 0 => {
                filled.push_str(match name {
                    name if name.ends_with("_id") => NOTHING,
                    "emoji_name" => "%F0%9F%91%8D",
                    "reaction_type" => "0",
                    _ => "unknown",
                });
                filled.push_str(rest);
            }
            _ => filled.push_str(part),
        }
    }
    filled
}

const HEAD: &str = "\
# Conformance

Made by `cargo xtask conformance --write`, which runs every case against a cluster of real processes; not
edited by hand. An operation **answers** if a valid request gets a documented status and a body that
the official schema takes and that libraries read, **acts** if a following read and the gateway's event
show its effect to those who may see it and to nobody else, **refuses** if 401, 403, 404 and 400 come as
specified.

| operations | of | answer | act | refuse | all three |
|---|---|---|---|---|---|
";

const TABLE: &str = "
| operation | route | tier | answers | acts | refuses |
|---|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_page_read_back() {
        let book = Book::default();
        let page = book.page();
        assert_eq!(page.lines().filter_map(read_row).count(), OPERATIONS.len());
        assert!(book.regressions(&page).is_empty());
        let claims = page.replacen("| - |", "| yes |", 1);
        assert_eq!(book.regressions(&claims).len(), 1);
        let row = "| get_gateway | GET `/gateway` | 1 | yes | - | yes |";
        assert_eq!(read_row(row), Some(("get_gateway", [true, false, true])));
    }

    #[test]
    fn parameters_are_filled_in() {
        assert_eq!(
            fill("/channels/{channel_id}/messages/{message_id}/reactions/{emoji_name}/@me"),
            "/channels/100000000000000001/messages/100000000000000001/reactions/%F0%9F%91%8D/@me"
        );
        assert_eq!(fill("/gateway"), "/gateway");
    }
}
