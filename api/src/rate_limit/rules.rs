//! Which bucket a route counts in, and how much the bucket holds.
//! Spec: limits-and-errors › Rate limits.

use std::time::Duration;

use axum::http::Method;
use guildhall_shared::{Id, Timestamp, id::marker};
use sha2::{Digest, Sha256};

/// Requests of a bucket per window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) requests: u32,
    pub(crate) window: Duration,
}

impl Limit {
    pub(crate) const fn per_seconds(requests: u32, seconds: u64) -> Self {
        Self {
            requests,
            window: Duration::from_secs(seconds),
        }
    }

    const fn per_ms(requests: u32, ms: u64) -> Self {
        Self {
            requests,
            window: Duration::from_millis(ms),
        }
    }
}

/// Requests of one account (or address) over all routes.
pub(crate) const GLOBAL: Limit = Limit::per_seconds(50, 1);
/// A route that no rule names.
const ORDINARY: Limit = Limit::per_seconds(50, 1);

/// Whom a bucket belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The account, or the address of who has none.
    Caller,
    /// The address, whoever calls: nobody gets more log-ins by having more accounts.
    Address,
    /// Whoever knows the token in the path; such calls do not count in the global limit.
    Token,
}

/// A line of the table. Routes of one name share a bucket.
struct Rule {
    methods: &'static [&'static str],
    /// A route's template; with `/*` also everything below it.
    route: &'static str,
    name: &'static str,
    limit: Limit,
    owner: Owner,
}

const fn rule(
    methods: &'static [&'static str],
    route: &'static str,
    name: &'static str,
    limit: Limit,
) -> Rule {
    Rule {
        methods,
        route,
        name,
        limit,
        owner: Owner::Caller,
    }
}

const fn by_address(route: &'static str, name: &'static str, limit: Limit) -> Rule {
    Rule {
        methods: &["POST"],
        route,
        name,
        limit,
        owner: Owner::Address,
    }
}

const fn by_token(
    methods: &'static [&'static str],
    route: &'static str,
    name: &'static str,
    limit: Limit,
) -> Rule {
    Rule {
        methods,
        route,
        name,
        limit,
        owner: Owner::Token,
    }
}

const ANY: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE"];
const CHANGE: &[&str] = &["POST", "PUT", "PATCH", "DELETE"];

/// The first that fits counts. What none fits counts by itself, as [`ORDINARY`].
const RULES: &[Rule] = &[
    rule(
        &["POST"],
        "/channels/{channel_id}/messages",
        "create message",
        Limit::per_seconds(5, 5),
    ),
    rule(
        &["GET"],
        "/channels/{channel_id}/messages",
        "read messages",
        Limit::per_seconds(50, 5),
    ),
    rule(
        &["POST"],
        "/channels/{channel_id}/messages/bulk-delete",
        "delete many messages",
        Limit::per_seconds(1, 1),
    ),
    rule(
        &["PATCH"],
        "/channels/{channel_id}/messages/{message_id}",
        "edit message",
        Limit::per_seconds(5, 5),
    ),
    rule(
        &["DELETE"],
        "/channels/{channel_id}/messages/{message_id}",
        DELETE_MESSAGE,
        Limit::per_seconds(5, 1),
    ),
    rule(
        &["PUT", "DELETE"],
        "/channels/{channel_id}/messages/{message_id}/reactions/*",
        "reactions",
        Limit::per_ms(1, 250),
    ),
    rule(
        &["POST"],
        "/channels/{channel_id}/typing",
        "typing",
        Limit::per_seconds(5, 5),
    ),
    rule(
        &["PATCH"],
        "/guilds/{guild_id}/members/{user_id}",
        "edit member",
        Limit::per_seconds(10, 10),
    ),
    rule(
        &["PUT", "DELETE"],
        "/guilds/{guild_id}/members/{user_id}/roles/{role_id}",
        "roles of members",
        Limit::per_seconds(10, 10),
    ),
    rule(
        &["POST"],
        "/guilds/{guild_id}/channels",
        "create channel",
        Limit::per_seconds(250, 48 * 3600),
    ),
    rule(
        &["POST"],
        "/guilds/{guild_id}/roles",
        "create role",
        Limit::per_seconds(250, 48 * 3600),
    ),
    // Replies without pages, which read every member of a guild, or every channel of a user.
    rule(
        &["GET"],
        "/guilds/{guild_id}/roles/member-counts",
        "count members of roles",
        Limit::per_seconds(5, 10),
    ),
    rule(
        &["GET"],
        "/users/@me/channels",
        "list direct messages",
        Limit::per_seconds(5, 5),
    ),
    rule(
        &["POST"],
        "/guilds",
        "create guild",
        Limit::per_seconds(10, 60),
    ),
    rule(
        &["POST"],
        "/guilds/templates/{code}",
        "create guild",
        Limit::per_seconds(10, 60),
    ),
    rule(
        &["POST"],
        "/users/@me/channels",
        "open direct messages",
        Limit::per_seconds(10, 600),
    ),
    rule(
        &["POST"],
        "/users/@me/relationships",
        "friend requests",
        Limit::per_seconds(20, 60),
    ),
    rule(
        &["PUT"],
        "/users/@me/relationships/{user_id}",
        "friend requests",
        Limit::per_seconds(20, 60),
    ),
    rule(
        &["GET"],
        "/gateway/bot",
        "gateway",
        Limit::per_seconds(2, 5),
    ),
    by_address("/auth/login", "log in", Limit::per_seconds(5, 60)),
    by_address("/auth/register", "register", Limit::per_seconds(5, 60)),
    by_address("/auth/mfa/*", "second factor", Limit::per_seconds(10, 60)),
    by_address(
        "/auth/forgot",
        "forgotten passwords",
        Limit::per_seconds(5, 300),
    ),
    by_address("/auth/reset", "mailed tickets", Limit::per_seconds(10, 60)),
    by_address("/auth/verify", "mailed tickets", Limit::per_seconds(10, 60)),
    rule(
        &["POST"],
        "/auth/verify/resend",
        "ask for mails",
        Limit::per_seconds(3, 300),
    ),
    rule(
        &["POST"],
        "/auth/verify/view-backup-codes-challenge",
        "ask for mails",
        Limit::per_seconds(3, 300),
    ),
    by_token(
        &["POST"],
        "/webhooks/{webhook_id}/{webhook_token}",
        "execute webhook",
        Limit::per_seconds(5, 2),
    ),
    by_token(
        &["POST"],
        "/webhooks/{webhook_id}/{webhook_token}/{service}",
        "execute webhook",
        Limit::per_seconds(5, 2),
    ),
    by_token(
        ANY,
        "/webhooks/{webhook_id}/{webhook_token}/*",
        "",
        ORDINARY,
    ),
    by_token(
        ANY,
        "/interactions/{interaction_id}/{interaction_token}/*",
        "",
        ORDINARY,
    ),
];

const DELETE_MESSAGE: &str = "delete message";
/// Messages older than two weeks are deleted from a bucket of their own.
const DELETE_OLD_MESSAGE: &str = "delete old message";
const OLD_MESSAGE_MS: u64 = 14 * 24 * 3600 * 1000;
const DELETE_OLD: Limit = Limit::per_seconds(30, 120);

/// Changes of a guild's emojis by all its members together.
const GUILD_EMOJIS: Limit = Limit::per_seconds(200, 3600);

/// What a request counts in, besides the global limit.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) owner: Owner,
    /// Opaque name of the route; the header's value.
    pub(crate) hash: String,
    /// The channel, guild or webhook at the top of the path; empty for the rest.
    pub(crate) major: String,
    pub(crate) limit: Limit,
    /// Counted for all callers together; the headers do not tell of it.
    pub(crate) shared: Option<(String, Limit)>,
}

impl Bucket {
    /// Of a route's template and the path, both without the version.
    pub(crate) fn of(method: &Method, route: &str, path: &str) -> Self {
        let rule = RULES.iter().find(|rule| rule.fits(method.as_str(), route));
        let mut name = match rule {
            Some(rule) if !rule.name.is_empty() => rule.name.to_owned(),
            _ => format!("{method} {route}"),
        };
        let mut limit = rule.map_or(ORDINARY, |rule| rule.limit);
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let kind = segments.next().unwrap_or_default();
        let major = match kind {
            "channels" | "guilds" | "webhooks" | "interactions" => {
                bounded(segments.next().unwrap_or_default())
            }
            _ => String::new(),
        };
        let owner = rule.map_or(Owner::Caller, |rule| rule.owner);
        let shared =
            is_emoji_change(method, route).then(|| (format!("emojis:{major}"), GUILD_EMOJIS));
        let major = match segments.next() {
            // A token is nothing to keep in Redis.
            Some(token) if owner == Owner::Token => format!("{major}:{}", digest(token)),
            _ => major,
        };
        if name == DELETE_MESSAGE && is_old(path) {
            (name, limit) = (DELETE_OLD_MESSAGE.to_owned(), DELETE_OLD);
        }
        Self {
            owner,
            hash: digest(&name),
            major,
            limit,
            shared,
        }
    }

    /// Among the buckets of one owner.
    pub(crate) fn key(&self) -> String {
        format!("{}:{}", self.hash, self.major)
    }
}

impl Rule {
    fn fits(&self, method: &str, route: &str) -> bool {
        if !self.methods.contains(&method) {
            return false;
        }
        let (top, is_whole) = match self.route.strip_suffix("/*") {
            Some(top) => (top, false),
            None => (self.route, true),
        };
        let mut rest = route.split('/');
        let is_below = top.split('/').all(|segment| {
            rest.next()
                .is_some_and(|other| same_segment(segment, other))
        });
        is_below && (!is_whole || rest.next().is_none())
    }
}

/// Names of parameters make no difference.
fn same_segment(one: &str, other: &str) -> bool {
    one == other || (one.starts_with('{') && other.starts_with('{'))
}

fn is_emoji_change(method: &Method, route: &str) -> bool {
    CHANGE.contains(&method.as_str()) && route.starts_with("/guilds/{guild_id}/emojis")
}

fn is_old(path: &str) -> bool {
    let id = path.rsplit('/').next().unwrap_or_default();
    let Ok(id) = id.parse::<Id<marker::Message>>() else {
        return false;
    };
    let now_ms = Timestamp::now().0.unix_timestamp_nanos() / 1_000_000;
    (now_ms as u64).saturating_sub(id.created_ms()) > OLD_MESSAGE_MS
}

/// An id has at most 20 digits; anything longer is no id and finds no route.
fn bounded(segment: &str) -> String {
    segment.chars().take(20).collect()
}

fn digest(text: &str) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(method: Method, route: &str, path: &str) -> Bucket {
        Bucket::of(&method, route, path)
    }

    fn create_message(path: &str) -> Bucket {
        bucket(Method::POST, "/channels/{channel_id}/messages", path)
    }

    #[test]
    fn channels_have_their_own_buckets_under_one_hash() {
        let (a, b) = (
            create_message("/channels/7/messages"),
            create_message("/channels/8/messages"),
        );
        assert_eq!(a.hash, b.hash);
        assert_ne!(a.key(), b.key());
        assert_eq!(a.limit, Limit::per_seconds(5, 5));
    }

    #[test]
    fn routes_without_a_major_parameter_share_a_bucket() {
        let of = |path| bucket(Method::GET, "/users/{user_id}", path);
        assert_eq!(of("/users/1").key(), of("/users/2").key());
    }

    #[test]
    fn all_reactions_of_a_channel_share_a_slow_bucket() {
        let top = "/channels/{channel_id}/messages/{message_id}/reactions";
        let put = bucket(
            Method::PUT,
            &format!("{top}/{{emoji_name}}/@me"),
            "/channels/1/messages/2/reactions/x/@me",
        );
        let clear = bucket(Method::DELETE, top, "/channels/1/messages/3/reactions");
        assert_eq!(put.key(), clear.key());
        assert_eq!(put.limit.window, Duration::from_millis(250));
        let read = bucket(
            Method::GET,
            &format!("{top}/{{emoji_name}}"),
            "/channels/1/messages/2/reactions/x",
        );
        assert_ne!(read.hash, put.hash);
    }

    #[test]
    fn old_messages_are_deleted_from_another_bucket() {
        let route = "/channels/{channel_id}/messages/{message_id}";
        let now_ms = Timestamp::now().0.unix_timestamp_nanos() / 1_000_000;
        let new =
            guildhall_shared::snowflake::Snowflakes::new(0).next::<marker::Message>(now_ms as u64);
        let delete = |id: u64| bucket(Method::DELETE, route, &format!("/channels/1/messages/{id}"));
        assert_eq!(delete(new.get()).limit, Limit::per_seconds(5, 1));
        assert_eq!(delete(1 << 22).limit, DELETE_OLD);
        assert_ne!(delete(1 << 22).hash, delete(new.get()).hash);
    }

    #[test]
    fn webhooks_count_by_id_and_token_whoever_calls() {
        let route = "/webhooks/{webhook_id}/{webhook_token}";
        let of = |path| bucket(Method::POST, route, path);
        let (a, b) = (of("/webhooks/1/secret"), of("/webhooks/1/other"));
        assert_eq!((a.owner, a.hash.as_str()), (Owner::Token, b.hash.as_str()));
        assert_ne!(a.key(), b.key());
        assert!(!a.key().contains("secret"));
        let own = bucket(Method::GET, "/webhooks/{webhook_id}", "/webhooks/1");
        assert_eq!(own.owner, Owner::Caller);
    }

    #[test]
    fn a_guilds_emojis_count_for_all_its_members_together() {
        let route = "/guilds/{guild_id}/emojis/{emoji_id}";
        let change = bucket(Method::PATCH, route, "/guilds/5/emojis/6");
        assert_eq!(change.shared, Some(("emojis:5".to_owned(), GUILD_EMOJIS)));
        assert_eq!(
            bucket(Method::GET, route, "/guilds/5/emojis/6").shared,
            None
        );
    }

    #[test]
    fn what_reads_all_there_is_is_asked_seldom() {
        for path in ["/guilds/5/roles/member-counts", "/users/@me/channels"] {
            let route = path.replace('5', "{guild_id}");
            let limit = bucket(Method::GET, &route, path).limit;
            assert!(
                limit.window >= Duration::from_secs(1) * limit.requests,
                "{path}"
            );
        }
    }

    /// Every route of the router has a bucket of its own or one of the table, and no line
    /// of the table is for a route that another line took before.
    #[test]
    fn routes_and_table_agree() {
        for (n, rule) in RULES.iter().enumerate() {
            let route = rule.route.trim_end_matches("/*");
            for method in rule.methods {
                let first = RULES.iter().position(|other| other.fits(method, route));
                assert!(first <= Some(n), "{method} {route}");
                if rule.methods.len() == 1 {
                    assert_eq!(first, Some(n), "{method} {route} is taken before");
                }
            }
        }
        let (_, document) = crate::routes::router().split_for_parts();
        let mut named = 0;
        for (path, item) in &document.paths.paths {
            let methods = [
                ("GET", &item.get),
                ("POST", &item.post),
                ("PUT", &item.put),
                ("PATCH", &item.patch),
                ("DELETE", &item.delete),
            ];
            for (method, _) in methods.iter().filter(|(_, operation)| operation.is_some()) {
                let bucket = bucket(method.parse().unwrap(), path, path);
                assert_eq!(bucket.hash.len(), 32);
                let takes_token = path.contains("_token}");
                assert_eq!(
                    bucket.owner == Owner::Token,
                    takes_token,
                    "{method} {path}: a token in the path stands for the caller"
                );
                named += 1;
            }
        }
        for open in [
            "login",
            "register",
            "forgot",
            "reset",
            "verify",
            "mfa/totp",
            "mfa/backup",
        ] {
            let path = format!("/auth/{open}");
            assert!(document.paths.paths.contains_key(&path), "{path}");
            let bucket = bucket(Method::POST, &path, &path);
            assert_eq!(bucket.owner, Owner::Address, "{path}");
        }
        assert!(named > 20, "the document has {named} operations");
    }
}
