//! The operators' API (`guildhall_shared::operator`): routes, and what each does. Works on every
//! coordinator: changes go to Postgres, and whoever leads acts on them.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use guildhall_redis::Connection;
use guildhall_shared::Id;
use guildhall_shared::cluster_map::MapVersion;
use guildhall_shared::id::marker::Guild;
use guildhall_shared::operator::{
    Accepted, BODY_BYTES_MAX, Change, DrainRequest, GuildsAnswer, HISTORY_MAX, HOT_MAX, Leader,
    Login, MoveRequest, Moves, NodesAnswer, PREFIX, PinRequest, PlanInfo, PlanRequest, ProblemCode,
    RequestedMove, Scope, ShardsAnswer, Snapshot, WeightRequest,
};
use guildhall_shared::shard::ShardId;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderValue, SET_COOKIE};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::timeout;

use super::caller::{self, Caller};
use super::events::Streams;
use super::{Body, JSON, reply};
use crate::access::AdminKey;
use crate::audit::{self, Deed};
use crate::config::Config;
use crate::error::Result as RoundResult;
use crate::journal;
use crate::observe::{self, Shown};
use crate::plans::{self, Pausing, Scene};
use crate::refusal::Refusal;
use crate::settings::{self, Orders};
use crate::view::{self, View};

/// Longest time a request may take, reading its body included.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Shards, guilds and rows that are named unless told.
const HOT_DEFAULT: usize = 20;
const HISTORY_DEFAULT: u32 = 50;

type Result<T, E = Refusal> = std::result::Result<T, E>;

/// Whether the operators' API answers a path.
pub(super) fn is_path(path: &str) -> bool {
    let rest = path.strip_prefix(PREFIX);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[derive(Clone)]
pub(super) struct Admin {
    key: Option<AdminKey>,
    /// Of this coordinator.
    id: String,
    shards: u16,
    per_node_max: usize,
    pub(super) db: PgPool,
    redis: Connection,
    streams: Streams,
}

/// A request, apart.
struct Asked {
    method: Method,
    /// Path below [`PREFIX`].
    path: Vec<String>,
    /// The same as it was written: it has no NUL, which Postgres stores in no text.
    written: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    async fn read(request: Request<Incoming>) -> Result<Self> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
        let decode = |part: &str| {
            let part = percent_decode_str(part).decode_utf8();
            part.map(|part| part.into_owned())
        };
        let written = path.trim_start_matches('/').to_owned();
        let parts = written.split('/').map(decode);
        let path = parts.collect::<std::result::Result<_, _>>();
        let path = path.map_err(|_| bad("the path is not UTF-8"))?;
        let query = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => Refusal::new(ProblemCode::BodyTooLong, "the body is too long"),
            false => bad("the body broke off"),
        })?;
        Ok(Self {
            method: head.method,
            path,
            written,
            query: query.into_owned().collect(),
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| bad(format!("the body: {error}")))
    }

    /// A number of the query within bounds.
    fn number<T: FromStr + PartialOrd>(&self, name: &str, default: T, max: T, min: T) -> Result<T> {
        let Some(text) = self.query.get(name) else {
            return Ok(default);
        };
        let number = text
            .parse::<T>()
            .ok()
            .filter(|number| (&min..=&max).contains(&number));
        number.ok_or_else(|| bad(format!("{name}: out of bounds or no number")))
    }
}

/// Something hangs. What was asked for may have been done.
pub(super) fn late() -> Refusal {
    let message = "it took too long; a change may have been made, see the history";
    Refusal::new(ProblemCode::NoPostgres, message)
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(ProblemCode::BadRequest, message)
}

fn parse<T: FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse()
        .map_err(|_| bad(format!("{text:?} is no {what}")))
}

impl Admin {
    pub(super) fn new(
        config: &Config,
        key: Option<AdminKey>,
        db: PgPool,
        redis: Connection,
    ) -> Self {
        Self {
            key,
            id: config.id.clone(),
            shards: config.shards,
            per_node_max: usize::from(config.moves_per_node_max),
            db,
            redis,
            streams: Streams::default(),
        }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let work = async {
            let asked = Asked::read(request).await?;
            self.route(&asked).await
        };
        let answered = timeout(ANSWER_MAX, work).await;
        match answered.unwrap_or_else(|_| Err(late())) {
            Ok(response) => response,
            Err(Refusal(problem)) => {
                let status = StatusCode::from_u16(problem.code.status());
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                answer(status, &problem)
            }
        }
    }

    async fn route(&self, asked: &Asked) -> Result<Response<Body>> {
        let path: Vec<&str> = asked.path.iter().map(String::as_str).collect();
        match (&asked.method, &path[..]) {
            (&Method::POST, ["login"]) => return self.log_in(asked).await,
            (&Method::POST, ["logout"]) => return self.log_out(asked).await,
            _ => {}
        }
        let caller = Caller::of(self.key.as_ref(), &asked.headers, SystemTime::now())?;
        let scope = match asked.method {
            Method::GET => Scope::Read,
            _ => Scope::Operate,
        };
        if let Err(refusal) = caller.may(scope) {
            self.record_refusal(&caller, asked, &refusal).await?;
            return Err(refusal);
        }
        if asked.method == Method::GET {
            return self.read(&caller, asked, &path).await;
        }
        match self.operate(&caller, asked, &path).await {
            // What failed may have been done, and is then in the history already.
            Err(refusal) if refusal.0.code.status() < 500 => {
                self.record_refusal(&caller, asked, &refusal).await?;
                Err(refusal)
            }
            done => done,
        }
    }

    async fn read(&self, caller: &Caller, asked: &Asked, path: &[&str]) -> Result<Response<Body>> {
        match path {
            ["nodes"] => self.nodes().await,
            ["map"] => self.map(asked).await,
            ["shards"] => {
                let count = asked.number("hot", HOT_DEFAULT, HOT_MAX, 1)?;
                self.hottest(count).await
            }
            ["guilds"] => {
                let count = asked.number("hot", HOT_DEFAULT, HOT_MAX, 1)?;
                self.hottest_guilds(count).await
            }
            ["why", guild] => self.why(parse(guild, "guild's id")?).await,
            ["history"] => {
                let before = asked.query.get("before");
                let before = before.map(|before| parse(before, "row")).transpose()?;
                let limit = asked.number("limit", HISTORY_DEFAULT, HISTORY_MAX, 1)?;
                ok(&audit::history(&self.db, before, limit).await?)
            }
            ["moves"] => {
                let orders = settings::read_from(&self.db).await?;
                let led = self.leader().await?.is_some();
                ok(&self.moves(orders, led).await?)
            }
            ["plan", id] => {
                let id = parse(id, "plan's id")?;
                let mut db = self.db.acquire().await?;
                let plan = plans::read(&mut db, id).await?;
                let unknown = || Refusal::new(ProblemCode::UnknownPlan, "there is no such plan");
                ok(&plan.ok_or_else(unknown)?)
            }
            ["events"] => {
                let events = self.streams.open(self, caller.claims.exp)?;
                Ok(events.map(Either::Right))
            }
            ["me"] => ok(&caller.me()),
            _ => Err(unknown_path(path)),
        }
    }

    async fn operate(
        &self,
        caller: &Caller,
        asked: &Asked,
        path: &[&str],
    ) -> Result<Response<Body>> {
        let who = caller.claims.sub.as_str();
        let node = |id: &&str| (*id).to_owned();
        let (action, change) = match (asked.method.as_str(), path) {
            ("POST", ["nodes", id, "cordon"]) => ("cordon", Change::Cordon { node: node(id) }),
            ("POST", ["nodes", id, "uncordon"]) => {
                ("uncordon", Change::Uncordon { node: node(id) })
            }
            ("POST", ["nodes", id, "drain"]) => {
                let DrainRequest { over_s } = match asked.body.is_empty() {
                    true => DrainRequest::default(),
                    false => asked.json()?,
                };
                let node = node(id);
                ("drain", Change::Drain { node, over_s })
            }
            ("POST", ["nodes", id, "undrain"]) => ("undrain", Change::Undrain { node: node(id) }),
            ("PUT", ["nodes", id, "weight"]) => {
                let WeightRequest { weight } = asked.json()?;
                let node = node(id);
                ("weight", Change::Weight { node, weight })
            }
            ("PUT", ["pins", shard]) => {
                let shard = ShardId(parse(shard, "shard")?);
                let PinRequest { node } = asked.json()?;
                ("pin", Change::Pin { shard, node })
            }
            ("DELETE", ["pins", shard]) => {
                let shard = ShardId(parse(shard, "shard")?);
                ("unpin", Change::Unpin { shard })
            }
            ("POST", ["moves"]) => {
                let MoveRequest { shards, guild, to } = asked.json()?;
                ("move", Change::Move { shards, guild, to })
            }
            ("POST", ["plan"]) => {
                let request: PlanRequest = asked.json()?;
                let plan = plans::make(&self.db, who, request, &self.scene().await?).await?;
                return Ok(answer(StatusCode::CREATED, &plan));
            }
            ("POST", ["plan", id, "apply"]) => {
                let id = parse(id, "plan's id")?;
                let plan = plans::apply(&self.db, who, id, &self.scene().await?).await?;
                return ok(&plan);
            }
            ("POST", ["pause"]) => return self.pause(who, Pausing::Pause).await,
            ("POST", ["resume"]) => return self.pause(who, Pausing::Resume).await,
            ("POST", ["abort"]) => {
                let id = plans::abort(&self.db, who, self.version().await).await?;
                return self.accepted(id).await;
            }
            _ => return Err(unknown_path(path)),
        };
        let scene = self.scene().await?;
        let id = plans::change(&self.db, who, action, change, &scene).await?;
        self.accepted(id).await
    }

    async fn pause(&self, who: &str, pausing: Pausing) -> Result<Response<Body>> {
        let id = plans::pause(&self.db, who, pausing, self.version().await).await?;
        self.accepted(id).await
    }

    async fn accepted(&self, audit_id: i64) -> Result<Response<Body>> {
        // It is done: that nobody says who leads makes no failure of it.
        let led = !matches!(self.leader().await, Ok(None));
        ok(&Accepted { audit_id, led })
    }

    /// Who leads now, if anybody does.
    async fn leader(&self) -> RoundResult<Option<Leader>> {
        let leader = sqlx::query!("select holder, term from cluster_term where until > now()")
            .fetch_optional(&self.db)
            .await?;
        Ok(leader.map(|row| Leader {
            holder: row.holder,
            term: row.term.unsigned_abs(),
        }))
    }

    async fn log_in(&self, asked: &Asked) -> Result<Response<Body>> {
        caller::need_header(&asked.headers)?;
        let Login { token } = asked.json()?;
        let now = SystemTime::now();
        let (claims, cookie) = caller::log_in(self.key.as_ref(), &token, &asked.headers, now)?;
        let detail = json!({ "scope": claims.scope });
        self.record(&claims.sub, "login", detail).await?;
        let response = answer(StatusCode::OK, &caller::me(&claims));
        Ok(with_cookie(response, &cookie))
    }

    async fn log_out(&self, asked: &Asked) -> Result<Response<Body>> {
        // Whose token is not valid any more may go, too: nobody knows who that is.
        let caller = Caller::of(self.key.as_ref(), &asked.headers, SystemTime::now()).ok();
        if let Err(refusal) = caller::need_header(&asked.headers) {
            if let Some(caller) = &caller {
                self.record_refusal(caller, asked, &refusal).await?;
            }
            return Err(refusal);
        }
        if let Some(caller) = &caller
            && let Err(error) = self.record(&caller.claims.sub, "logout", json!({})).await
        {
            // Nobody stays logged in for that.
            tracing::warn!(%error, "a log-out is not in the history");
        }
        let mut response = reply(StatusCode::NO_CONTENT, JSON, Bytes::new());
        response.headers_mut().remove(hyper::header::CONTENT_TYPE);
        let cookie = caller::log_out(&asked.headers);
        Ok(with_cookie(response.map(Either::Left), &cookie))
    }

    async fn record_refusal(
        &self,
        caller: &Caller,
        asked: &Asked,
        refusal: &Refusal,
    ) -> Result<()> {
        let detail = json!({
            "code": refusal.0.code,
            "method": asked.method.as_str(),
            "path": asked.written,
        });
        self.record(&caller.claims.sub, "refused", detail).await?;
        Ok(())
    }

    /// Writes down what changes nothing in the cluster.
    async fn record(&self, who: &str, action: &str, detail: Value) -> RoundResult<()> {
        let deed = Deed {
            who,
            action,
            detail,
            version: self.version().await,
        };
        audit::record(&mut *self.db.acquire().await?, deed).await?;
        Ok(())
    }

    async fn shown(&self) -> RoundResult<Shown> {
        observe::shown(&mut self.redis.clone()).await
    }

    async fn scene(&self) -> Result<Scene> {
        Ok(Scene {
            shown: Arc::new(self.shown().await?),
            shards: self.shards,
            per_node_max: self.per_node_max,
        })
    }

    /// Of the map in use, for the history; 0 if Redis does not say.
    async fn version(&self) -> MapVersion {
        let map = observe::map(&mut self.redis.clone()).await.ok().flatten();
        map.map(|map| map.version).unwrap_or_default()
    }

    /// What is, for a [`View`].
    async fn seen(&self) -> Result<(Shown, BTreeMap<String, Duration>, Orders)> {
        let shown = self.shown().await?;
        let ages = observe::heartbeat_ages(&mut self.redis.clone(), &shown.live).await?;
        let orders = settings::read_from(&self.db).await?;
        Ok((shown, ages, orders))
    }

    async fn nodes(&self) -> Result<Response<Body>> {
        let (shown, ages, orders) = self.seen().await?;
        let nodes = View::new(self.shards, &shown, &ages, &orders.settings).nodes();
        ok(&NodesAnswer { nodes })
    }

    async fn map(&self, asked: &Asked) -> Result<Response<Body>> {
        let (shown, ages, orders) = self.seen().await?;
        let view = View::new(self.shards, &shown, &ages, &orders.settings);
        let mut map = view.map().ok_or_else(no_map)?;
        map.assignments = match asked.query.get("shards").map(String::as_str) {
            None => None,
            Some("all") => Some(view.shards()),
            Some(_) => return Err(bad("shards: only all")),
        };
        ok(&map)
    }

    async fn hottest(&self, count: usize) -> Result<Response<Body>> {
        let (shown, ages, orders) = self.seen().await?;
        let view = View::new(self.shards, &shown, &ages, &orders.settings);
        let shards = view.hottest(count);
        ok(&ShardsAnswer { shards })
    }

    async fn hottest_guilds(&self, count: usize) -> Result<Response<Body>> {
        let (shown, ages, orders) = self.seen().await?;
        let view = View::new(self.shards, &shown, &ages, &orders.settings);
        let guilds = view.hottest_guilds(count);
        ok(&GuildsAnswer { guilds })
    }

    async fn why(&self, guild: Id<Guild>) -> Result<Response<Body>> {
        let (shown, ages, orders) = self.seen().await?;
        let map = shown.map.as_ref().ok_or_else(no_map)?;
        let last_move = journal::last_move(&self.db, view::shard_of(map, guild)).await?;
        let view = View::new(self.shards, &shown, &ages, &orders.settings);
        ok(&view.why(guild, last_move).ok_or_else(no_map)?)
    }

    async fn moves(&self, orders: Orders, led: bool) -> Result<Moves> {
        let plan = match orders.plan {
            Some(id) => plans::read(&mut *self.db.acquire().await?, id).await?,
            None => None,
        };
        let requested = orders.settings.moves.into_iter();
        Ok(Moves {
            led,
            paused: orders.pause,
            plan: plan.map(without_moves),
            requested: requested
                .map(|(shard, to)| RequestedMove { shard, to })
                .collect(),
            progress: journal::read_progress(&self.db).await?,
        })
    }

    /// Everything at once.
    pub(super) async fn snapshot(&self) -> Result<Snapshot> {
        let (shown, ages, orders) = self.seen().await?;
        let leader = self.leader().await?;
        let led = leader.is_some();
        let view = View::new(self.shards, &shown, &ages, &orders.settings);
        let (at_ms, map, nodes) = (orders.now_ms, view.map(), view.nodes());
        Ok(Snapshot {
            at_ms,
            coordinator: self.id.clone(),
            leader,
            map,
            nodes,
            moves: self.moves(orders, led).await?,
        })
    }
}

/// A plan may move every shard; who wants to see each asks for the plan itself.
fn without_moves(mut plan: PlanInfo) -> PlanInfo {
    plan.outcome.moves.clear();
    plan
}

fn with_cookie(mut response: Response<Body>, cookie: &str) -> Response<Body> {
    // Tokens that passed the check are plain ASCII.
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn no_map() -> Refusal {
    Refusal::new(ProblemCode::NoMap, "there is no map yet")
}

/// A path of the API under another method, or none of it.
fn unknown_path(path: &[&str]) -> Refusal {
    let known = matches!(
        path,
        ["nodes" | "map" | "shards" | "guilds" | "history" | "moves" | "events" | "me"]
            | ["login" | "logout" | "plan" | "pause" | "resume" | "abort"]
            | ["why" | "pins" | "plan", _]
            | ["plan", _, "apply"]
            | [
                "nodes",
                _,
                "cordon" | "uncordon" | "drain" | "undrain" | "weight"
            ]
    );
    match known {
        true => Refusal::new(ProblemCode::MethodNotAllowed, "not by this method"),
        false => Refusal::new(ProblemCode::UnknownPath, "there is nothing here"),
    }
}

fn ok<T: Serialize>(value: &T) -> Result<Response<Body>> {
    Ok(answer(StatusCode::OK, value))
}

fn answer<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("answers have string keys");
    let response: Response<Full<Bytes>> = reply(status, JSON, body);
    response.map(Either::Left)
}
