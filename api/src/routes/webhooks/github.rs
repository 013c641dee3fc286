//! Events of GitHub, read as messages: one embed that says who did what where.

use guildhall_shared::error_code::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{error::Result, extract::Form, form::FormErrors, routes::messages::NewMessageForm};

/// Commits that one message lists.
const COMMITS_MAX: usize = 5;
/// Characters of a text that somebody else wrote.
const TEXT_MAX: usize = 500;
const TITLE_MAX: usize = 256;

/// What GitHub sends; which parts there are depends on the event.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct GithubEvent {
    #[schema(required)]
    sender: Option<GithubUser>,
    action: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    ref_type: Option<String>,
    comment: Option<Value>,
    issue: Option<Value>,
    pull_request: Option<Value>,
    repository: Option<Value>,
    forkee: Option<Value>,
    release: Option<Value>,
    #[serde(deserialize_with = "crate::extract::null_is_default")]
    commits: Vec<Value>,
    forced: Option<bool>,
    compare: Option<String>,
    review: Option<Value>,
    check_run: Option<Value>,
    check_suite: Option<Value>,
    discussion: Option<Value>,
    answer: Option<Value>,
    member: Option<Value>,
}

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
struct GithubUser {
    login: String,
    html_url: Option<String>,
    avatar_url: Option<String>,
}

impl Form for GithubEvent {
    fn check(&self, form: &mut FormErrors) {
        form.required("sender", &self.sender);
    }
}

/// Title, address and text of an embed.
struct Story {
    title: String,
    url: Option<String>,
    text: Option<String>,
}

impl Story {
    fn new(title: String, about: Option<&Value>) -> Self {
        let about = about.unwrap_or(&Value::Null);
        let text = |key: &str| about[key].as_str().map(str::to_owned);
        Self {
            title,
            url: text("html_url"),
            text: text("body"),
        }
    }

    fn bare(title: String, about: Option<&Value>) -> Self {
        Self {
            text: None,
            ..Self::new(title, about)
        }
    }
}

impl GithubEvent {
    /// The message of an event; `None` for events that nobody wants to read. Errors: 50035.
    pub(super) fn into_form(self, event: &str) -> Result<Option<NewMessageForm>> {
        let Some(story) = self.story(event) else {
            return Ok(None);
        };
        let sender = self.sender.unwrap_or_default();
        let embed = json!({
            "title": cut(&story.title, TITLE_MAX),
            "url": story.url.filter(|url| is_web(url)),
            "description": story.text.map(|text| cut(&text, TEXT_MAX)),
            "author": {
                "name": cut(&sender.login, TITLE_MAX),
                "url": sender.html_url.filter(|url| is_web(url)),
                "icon_url": sender.avatar_url.filter(|url| is_web(url)),
            },
        });
        let embed = serde_json::from_value(embed).map_err(|_| ErrorCode::InvalidFormBody)?;
        let form = NewMessageForm::of_text(String::new(), vec![embed]);
        let mut faults = FormErrors::new();
        form.check(&mut faults);
        faults.finish()?;
        Ok(Some(form))
    }

    fn story(&self, event: &str) -> Option<Story> {
        let repository = self.repository.as_ref();
        let place = repository
            .and_then(|r| r["full_name"].as_str())
            .unwrap_or("GitHub");
        let action = self.action.as_deref().unwrap_or_default();
        let about = |value: &Option<Value>| {
            let value = value.as_ref().unwrap_or(&Value::Null);
            let number = value["number"].as_u64().unwrap_or_default();
            let title = value["title"].as_str().unwrap_or_default();
            format!("#{number} {title}")
        };
        Some(match (event, action) {
            ("ping", _) => Story::bare(format!("[{place}] Webhook is set up"), repository),
            ("push", _) => self.push(place)?,
            ("create" | "delete", _) => {
                let kind = self.ref_type.as_deref().unwrap_or("branch");
                let name = self.reference.as_deref().unwrap_or_default();
                let title = match event {
                    "create" => format!("[{place}] New {kind} created: {name}"),
                    _ => format!("[{place}] {kind} deleted: {name}"),
                };
                Story::bare(title, repository)
            }
            ("fork", _) => {
                let forkee = self.forkee.as_ref();
                let name = forkee
                    .and_then(|f| f["full_name"].as_str())
                    .unwrap_or_default();
                Story::bare(format!("[{place}] Fork created: {name}"), forkee)
            }
            ("watch", "started") => Story::bare(format!("[{place}] New star added"), repository),
            ("public", _) => Story::bare(format!("[{place}] Now open sourced"), repository),
            ("member", "added") => {
                let login = self.member.as_ref().and_then(|m| m["login"].as_str());
                let login = login.unwrap_or_default();
                Story::bare(
                    format!("[{place}] New collaborator added: {login}"),
                    repository,
                )
            }
            ("issues", "opened") => Story::new(
                format!("[{place}] Issue opened: {}", about(&self.issue)),
                self.issue.as_ref(),
            ),
            ("issues", "closed" | "reopened") => Story::bare(
                format!("[{place}] Issue {action}: {}", about(&self.issue)),
                self.issue.as_ref(),
            ),
            ("issue_comment", "created") => {
                let on = match &self.issue {
                    Some(issue) if !issue["pull_request"].is_null() => "pull request",
                    Some(_) | None => "issue",
                };
                Story::new(
                    format!("[{place}] New comment on {on} {}", about(&self.issue)),
                    self.comment.as_ref(),
                )
            }
            ("commit_comment", "created") => {
                let commit = self.comment.as_ref().and_then(|c| c["commit_id"].as_str());
                let commit = cut(commit.unwrap_or_default(), 7);
                let title = format!("[{place}] New comment on commit `{commit}`");
                Story::new(title, self.comment.as_ref())
            }
            ("pull_request", "opened") => Story::new(
                format!(
                    "[{place}] Pull request opened: {}",
                    about(&self.pull_request)
                ),
                self.pull_request.as_ref(),
            ),
            ("pull_request", "closed" | "reopened") => {
                let merged = self
                    .pull_request
                    .as_ref()
                    .is_some_and(|p| p["merged"] == true);
                let what = if merged { "merged" } else { action };
                Story::bare(
                    format!(
                        "[{place}] Pull request {what}: {}",
                        about(&self.pull_request)
                    ),
                    self.pull_request.as_ref(),
                )
            }
            ("pull_request_review", "submitted") => {
                let state = self.review.as_ref().and_then(|r| r["state"].as_str());
                let state = state.unwrap_or("submitted").replace('_', " ");
                let on = about(&self.pull_request);
                let title = format!("[{place}] Pull request review {state}: {on}");
                Story::new(title, self.review.as_ref())
            }
            ("pull_request_review_comment", "created") => Story::new(
                format!(
                    "[{place}] New review comment on pull request {}",
                    about(&self.pull_request)
                ),
                self.comment.as_ref(),
            ),
            ("release", "published") => {
                let release = self.release.as_ref();
                let name = release.and_then(|r| r["name"].as_str().or(r["tag_name"].as_str()));
                let name = name.unwrap_or_default();
                Story::bare(format!("[{place}] New release published: {name}"), release)
            }
            ("discussion", "created") => Story::new(
                format!("[{place}] New discussion: {}", about(&self.discussion)),
                self.discussion.as_ref(),
            ),
            ("discussion", "answered") => Story::new(
                format!("[{place}] Discussion answered: {}", about(&self.discussion)),
                self.answer.as_ref(),
            ),
            ("discussion_comment", "created") => Story::new(
                format!(
                    "[{place}] New comment on discussion {}",
                    about(&self.discussion)
                ),
                self.comment.as_ref(),
            ),
            ("check_run" | "check_suite", "completed") => {
                let check = self.check_run.as_ref().or(self.check_suite.as_ref());
                let value = check.unwrap_or(&Value::Null);
                let name = value["name"].as_str().unwrap_or("Checks");
                let end = value["conclusion"].as_str().unwrap_or("completed");
                Story::bare(format!("[{place}] {name}: {end}"), check)
            }
            _ => return None,
        })
    }

    fn push(&self, place: &str) -> Option<Story> {
        let branch = self.reference.as_deref()?.strip_prefix("refs/heads/")?;
        if self.commits.is_empty() && self.forced != Some(true) {
            return None;
        }
        let count = self.commits.len();
        let title = match (self.forced, count) {
            (Some(true), _) => format!("[{place}] Branch {branch} was force-pushed"),
            (_, 1) => format!("[{place}:{branch}] 1 new commit"),
            _ => format!("[{place}:{branch}] {count} new commits"),
        };
        let lines = self.commits.iter().take(COMMITS_MAX).map(|commit| {
            let id = commit["id"].as_str().unwrap_or_default();
            let message = commit["message"].as_str().unwrap_or_default();
            let line = cut(message.lines().next().unwrap_or_default(), 60);
            let author = commit["author"]["name"].as_str().unwrap_or_default();
            match commit["url"].as_str().filter(|url| is_web(url)) {
                Some(url) => format!("[`{}`]({url}) {line} - {author}", cut(id, 7)),
                None => format!("`{}` {line} - {author}", cut(id, 7)),
            }
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        Some(Story {
            title,
            url: self.compare.clone(),
            text: Some(text).filter(|text| !text.is_empty()),
        })
    }
}

fn is_web(url: &str) -> bool {
    let host = url.strip_prefix("https://").or(url.strip_prefix("http://"));
    url.len() <= 2048
        && host.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace))
}

/// At most so many characters, with dots for what is left out.
fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let start: String = text.chars().take(max.saturating_sub(1)).collect();
    if max < 10 {
        text.chars().take(max).collect()
    } else {
        format!("{start}…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(event: &str, body: Value) -> Option<NewMessageForm> {
        let event_body: GithubEvent = serde_json::from_value(body).unwrap();
        event_body.into_form(event).unwrap()
    }

    #[test]
    fn events_become_messages_and_noise_does_not() {
        let sender = json!({ "login": "octo", "html_url": "https://x.org/o", "avatar_url": "bad" });
        let push = json!({ "sender": sender, "ref": "refs/heads/main", "compare": "https://x.org",
            "commits": [{ "id": "0123456789", "message": "fix\n\nlong", "author": { "name": "o" } }] });
        assert!(read("push", push).is_some());
        let long = json!({ "sender": sender, "action": "opened",
            "issue": { "number": 1, "title": "x".repeat(400), "body": "y".repeat(9000) } });
        assert!(read("issues", long).is_some());
        assert!(read("issues", json!({ "sender": sender, "action": "labeled" })).is_none());
        assert!(read("status", json!({ "sender": sender })).is_none());
    }
}
