//! Permission matrix: real answers of the API for many generated worlds (actor × action × role
//! setup), compared with a slow reference that was written from the specification alone
//! (permissions.md › Computation, Hierarchy) and shares no code with the server.
//!
//! Nobody grants a bit they lack, touches a role at or above their own, or sees a channel
//! they may not.

use std::collections::BTreeMap;

use guildhall_shared::{Id, id::marker};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{TestApp, TestGuild, TestUser};

/// Cases compared: worlds times actions of each.
const WORLDS: usize = 26;
const CASES_PER_WORLD: usize = 24;
const SEED: u64 = 20_261_123;

/// Bits that the actions are about, by their numbers in the specification.
const KICK: u64 = 1 << 1;
const BAN: u64 = 1 << 2;
const ADMINISTRATOR: u64 = 1 << 3;
const MANAGE_CHANNELS: u64 = 1 << 4;
const MANAGE_GUILD: u64 = 1 << 5;
const VIEW: u64 = 1 << 10;
const SEND: u64 = 1 << 11;
const HISTORY: u64 = 1 << 16;
const CHANGE_NICKNAME: u64 = 1 << 26;
const MANAGE_NICKNAMES: u64 = 1 << 27;
const MANAGE_ROLES: u64 = 1 << 28;
const MODERATE: u64 = 1 << 40;
const ALL: u64 = 8_866_461_766_385_663;
const DRAWN: [u64; 11] = [
    KICK,
    BAN,
    MANAGE_CHANNELS,
    MANAGE_GUILD,
    VIEW,
    SEND,
    HISTORY,
    CHANGE_NICKNAME,
    MANAGE_NICKNAMES,
    MANAGE_ROLES,
    MODERATE,
];

#[derive(Debug, Clone)]
struct Role {
    id: u64,
    position: i32,
    permissions: u64,
    managed: bool,
}

#[derive(Debug, Clone)]
struct Member {
    id: u64,
    roles: Vec<u64>,
    timed_out: bool,
}

#[derive(Debug, Clone)]
struct Overwrite {
    id: u64,
    is_role: bool,
    allow: u64,
    deny: u64,
}

/// A guild as the reference sees it. Member 0 is the owner.
#[derive(Debug)]
struct World {
    guild: u64,
    roles: Vec<Role>,
    members: Vec<Member>,
    channel: u64,
    overwrites: Vec<Overwrite>,
}

/// What somebody tries.
#[derive(Debug, Clone)]
enum Try {
    Kick(usize),
    Ban(usize),
    Rename(usize),
    TimeOut(usize),
    Give(usize, usize),
    CreateRole(u64),
    SetPermissions(usize, u64),
    MoveRole(usize, i32),
    DeleteRole(usize),
    ReadChannel,
    ReadMessages,
    Send,
    RenameChannel,
    SetOverwrite(usize, u64, u64),
    RenameGuild,
}

impl World {
    fn role(&self, id: u64) -> Option<&Role> {
        self.roles.iter().find(|role| role.id == id)
    }

    /// Owner: all; else @everyone's and the roles' bits; administrators: all; timed out: two.
    fn base(&self, who: usize) -> u64 {
        let member = &self.members[who];
        if who == 0 {
            return ALL;
        }
        let mut bits = 0;
        for role in &self.roles {
            if role.id == self.guild || member.roles.contains(&role.id) {
                bits |= role.permissions;
            }
        }
        if bits & ADMINISTRATOR != 0 {
            return ALL;
        }
        if member.timed_out {
            bits &= VIEW | HISTORY;
        }
        bits
    }

    fn in_channel(&self, who: usize) -> u64 {
        let base = self.base(who);
        if base == ALL {
            return ALL;
        }
        let member = &self.members[who];
        let mut bits = base;
        for overwrite in &self.overwrites {
            if overwrite.is_role && overwrite.id == self.guild {
                bits = bits & !overwrite.deny | overwrite.allow;
            }
        }
        let (mut allow, mut deny) = (0, 0);
        for overwrite in &self.overwrites {
            if overwrite.is_role && member.roles.contains(&overwrite.id) {
                allow |= overwrite.allow;
                deny |= overwrite.deny;
            }
        }
        bits = bits & !deny | allow;
        for overwrite in &self.overwrites {
            if !overwrite.is_role && overwrite.id == member.id {
                bits = bits & !overwrite.deny | overwrite.allow;
            }
        }
        if member.timed_out {
            bits &= VIEW | HISTORY;
        }
        if bits & VIEW == 0 { 0 } else { bits }
    }

    /// Whether one role is above another: by position, of equal ones the older.
    fn is_above(one: (i32, u64), other: (i32, u64)) -> bool {
        one.0 > other.0 || (one.0 == other.0 && one.1 < other.1)
    }

    /// Whether a member stands above a role at a place.
    fn is_above_role(&self, who: usize, place: (i32, u64)) -> bool {
        who == 0
            || self.members[who].roles.iter().any(|&held| {
                let held = self.role(held).map(|role| (role.position, role.id));
                held.is_some_and(|held| Self::is_above(held, place))
            })
    }

    /// Whether a member stands above another.
    fn is_above_member(&self, who: usize, target: usize) -> bool {
        if target == 0 || who == target {
            return false;
        }
        if who == 0 {
            return true;
        }
        let places = self.members[target]
            .roles
            .iter()
            .filter_map(|&held| self.role(held));
        let mut places = places.map(|role| (role.position, role.id)).peekable();
        if places.peek().is_none() {
            return self.members[who]
                .roles
                .iter()
                .any(|&held| self.role(held).is_some());
        }
        places.all(|place| self.is_above_role(who, place))
    }

    fn may(&self, who: usize, what: &Try) -> bool {
        let base = self.base(who);
        let has = |bit: u64| base & bit == bit;
        match *what {
            Try::Kick(target) => has(KICK) && self.is_above_member(who, target),
            Try::Ban(target) => has(BAN) && self.is_above_member(who, target),
            Try::Rename(target) if target == who => has(CHANGE_NICKNAME),
            Try::Rename(target) => has(MANAGE_NICKNAMES) && self.is_above_member(who, target),
            Try::TimeOut(target) => {
                has(MODERATE) && self.base(target) != ALL && self.is_above_member(who, target)
            }
            Try::Give(_, role) | Try::DeleteRole(role) => {
                let role = &self.roles[role];
                has(MANAGE_ROLES)
                    && !role.managed
                    && role.id != self.guild
                    && self.is_above_role(who, (role.position, role.id))
            }
            Try::CreateRole(bits) => has(MANAGE_ROLES) && has(bits),
            Try::SetPermissions(role, bits) => {
                let role = &self.roles[role];
                has(MANAGE_ROLES)
                    && has(bits ^ role.permissions)
                    && (role.id == self.guild || self.is_above_role(who, (role.position, role.id)))
            }
            Try::MoveRole(role, position) => {
                let role = &self.roles[role];
                has(MANAGE_ROLES)
                    && (position == role.position
                        || role.id != self.guild
                            && self.is_above_role(who, (role.position, role.id))
                            && self.is_above_role(who, (position, role.id)))
            }
            Try::ReadChannel => self.in_channel(who) & VIEW != 0,
            // Without the history an empty list is the answer.
            Try::ReadMessages => self.in_channel(who) & VIEW != 0,
            Try::Send => self.in_channel(who) & SEND != 0,
            Try::RenameChannel => self.in_channel(who) & MANAGE_CHANNELS != 0,
            Try::SetOverwrite(role, allow, deny) => {
                let here = self.in_channel(who);
                let member = &self.members[who];
                let id = self.roles[role].id;
                let old = self
                    .overwrites
                    .iter()
                    .find(|old| old.is_role && old.id == id);
                let (old_allow, old_deny) = old.map_or((0, 0), |old| (old.allow, old.deny));
                let changed = (old_allow ^ allow) | (old_deny ^ (deny & !allow));
                let explicit = self.overwrites.iter().any(|overwrite| {
                    let own = if overwrite.is_role {
                        overwrite.id == self.guild || member.roles.contains(&overwrite.id)
                    } else {
                        overwrite.id == member.id
                    };
                    own && overwrite.allow & MANAGE_ROLES != 0
                });
                here & VIEW != 0 && here & MANAGE_ROLES != 0 && (explicit || has(changed))
            }
            Try::RenameGuild => has(MANAGE_GUILD),
        }
    }
}

fn some_bits(rng: &mut StdRng, share: f64) -> u64 {
    let drawn = DRAWN.iter().filter(|_| rng.random_bool(share));
    drawn.fold(0, |bits, bit| bits | bit)
}

/// People who are the same in all worlds.
struct People(Vec<TestUser>);

async fn build(app: &TestApp, rng: &mut StdRng, people: &People, number: usize) -> World {
    let guild: TestGuild = app.guild(&people.0[0], &format!("world {number}")).await;
    let everyone = some_bits(rng, 0.3) | if rng.random_bool(0.8) { VIEW } else { 0 };
    let mut roles = vec![Role {
        id: guild.id.get(),
        position: 0,
        permissions: everyone,
        managed: false,
    }];
    for _ in 0..rng.random_range(2..6) {
        let id: Id<marker::Role> = app.id();
        roles.push(Role {
            id: id.get(),
            // Places are shared now and then.
            position: rng.random_range(1..5),
            permissions: some_bits(rng, 0.4)
                | if rng.random_bool(0.1) {
                    ADMINISTRATOR
                } else {
                    0
                },
            managed: rng.random_bool(0.15),
        });
    }
    let members: Vec<Member> = people
        .0
        .iter()
        .enumerate()
        .map(|(index, user)| Member {
            id: user.id.get(),
            roles: roles[1..]
                .iter()
                .filter(|_| rng.random_bool(0.4))
                .map(|role| role.id)
                .collect(),
            timed_out: index > 0 && rng.random_bool(0.12),
        })
        .collect();
    let mut overwrites = Vec::new();
    for (id, is_role) in roles
        .iter()
        .map(|role| (role.id, true))
        .chain(members.iter().map(|member| (member.id, false)))
    {
        if rng.random_bool(0.35) {
            let allow = some_bits(rng, 0.25);
            overwrites.push(Overwrite {
                id,
                is_role,
                allow,
                deny: some_bits(rng, 0.25) & !allow,
            });
        }
    }
    let world = World {
        guild: guild.id.get(),
        roles,
        members,
        channel: guild.general.get(),
        overwrites,
    };
    store(app, &world).await;
    world
}

/// Makes the database say what the world does, whatever was done to it.
async fn store(app: &TestApp, world: &World) {
    let guild = world.guild as i64;
    let mut tx = app.db.begin().await.unwrap();
    for table in ["role", "member", "ban"] {
        let delete = format!("delete from {table} where guild_id = {guild}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(delete))
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    for role in &world.roles {
        sqlx::query(
            "insert into role (guild_id, role_id, name, position, permissions, managed)
             values ($1, $2, 'role', $3, $4, $5)",
        )
        .bind(guild)
        .bind(role.id as i64)
        .bind(role.position)
        .bind(role.permissions as i64)
        .bind(role.managed)
        .execute(&mut *tx)
        .await
        .unwrap();
    }
    for member in &world.members {
        let roles: Vec<i64> = member.roles.iter().map(|&role| role as i64).collect();
        sqlx::query(
            "insert into member (guild_id, user_id, roles, communication_disabled_until)
             values ($1, $2, $3, case when $4 then now() + interval '1 hour' end)",
        )
        .bind(guild)
        .bind(member.id as i64)
        .bind(roles)
        .bind(member.timed_out)
        .execute(&mut *tx)
        .await
        .unwrap();
    }
    let overwrites: Vec<Value> = world
        .overwrites
        .iter()
        .map(|overwrite| {
            json!({
                "id": overwrite.id.to_string(),
                "type": u8::from(!overwrite.is_role),
                "allow": overwrite.allow.to_string(),
                "deny": overwrite.deny.to_string(),
            })
        })
        .collect();
    sqlx::query("update channel set overwrites = $2 where channel_id = $1")
        .bind(world.channel as i64)
        .bind(json!(overwrites))
        .execute(&mut *tx)
        .await
        .unwrap();
    // Permissions read before are out of date, as after an event that changes them.
    sqlx::query("update realm_head set state_seq = state_seq + 1 where realm_id = $1")
        .bind(guild)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

fn draw(rng: &mut StdRng, world: &World) -> Try {
    let target = rng.random_range(0..world.members.len());
    let role = rng.random_range(0..world.roles.len());
    match rng.random_range(0..15) {
        0 => Try::Kick(target),
        1 => Try::Ban(target),
        2 => Try::Rename(target),
        3 => Try::TimeOut(target),
        4 => Try::Give(target, role),
        5 => Try::CreateRole(some_bits(rng, 0.2)),
        6 => Try::SetPermissions(role, some_bits(rng, 0.3)),
        7 => Try::MoveRole(role, rng.random_range(1..6)),
        8 => Try::DeleteRole(role),
        9 => Try::ReadChannel,
        10 => Try::ReadMessages,
        11 => Try::Send,
        12 => Try::RenameChannel,
        13 => Try::SetOverwrite(role, some_bits(rng, 0.15), some_bits(rng, 0.15)),
        _ => Try::RenameGuild,
    }
}

async fn ask(app: &TestApp, user: &TestUser, world: &World, what: &Try) -> (StatusCode, Value) {
    let guild = format!("/guilds/{}", world.guild);
    let channel = format!("/channels/{}", world.channel);
    let member = |target: usize| format!("{guild}/members/{}", world.members[target].id);
    let role = |role: usize| format!("{guild}/roles/{}", world.roles[role].id);
    let reply = match *what {
        Try::Kick(target) => app.delete(user, &member(target)).await,
        Try::Ban(target) => {
            let path = format!("{guild}/bans/{}", world.members[target].id);
            app.put(user, &path, json!({})).await
        }
        Try::Rename(target) => {
            app.patch(user, &member(target), json!({ "nick": "x" }))
                .await
        }
        Try::TimeOut(target) => {
            let body = json!({ "communication_disabled_until": null });
            app.patch(user, &member(target), body).await
        }
        Try::Give(target, given) => {
            let path = format!("{}/roles/{}", member(target), world.roles[given].id);
            app.put(user, &path, json!({})).await
        }
        Try::CreateRole(bits) => {
            let body = json!({ "permissions": bits.to_string() });
            app.post(user, &format!("{guild}/roles"), body).await
        }
        Try::SetPermissions(changed, bits) => {
            let body = json!({ "permissions": bits.to_string() });
            app.patch(user, &role(changed), body).await
        }
        Try::MoveRole(moved, position) => {
            let body = json!([{ "id": world.roles[moved].id.to_string(), "position": position }]);
            app.patch(user, &format!("{guild}/roles"), body).await
        }
        Try::DeleteRole(deleted) => app.delete(user, &role(deleted)).await,
        Try::ReadChannel => app.get(user, &channel).await,
        Try::ReadMessages => app.get(user, &format!("{channel}/messages")).await,
        Try::Send => {
            let path = format!("{channel}/messages");
            app.post(user, &path, json!({ "content": "hi" })).await
        }
        Try::RenameChannel => app.patch(user, &channel, json!({ "name": "y" })).await,
        Try::SetOverwrite(target, allow, deny) => {
            let path = format!("{channel}/permissions/{}", world.roles[target].id);
            let body = json!({ "type": 0, "allow": allow.to_string(), "deny": deny.to_string() });
            app.put(user, &path, body).await
        }
        Try::RenameGuild => app.patch(user, &guild, json!({ "name": "zz" })).await,
    };
    (reply.status, reply.body)
}

#[sqlx::test(migrations = "../migrations")]
async fn the_api_allows_exactly_what_the_specification_does(db: PgPool) {
    let app = TestApp::new(db).await;
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut people = Vec::new();
    for name in ["owner", "ann", "ben", "cleo", "dan"] {
        people.push(app.user(name).await);
    }
    let people = People(people);
    let mut counted: BTreeMap<bool, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for number in 0..WORLDS {
        let world = build(&app, &mut rng, &people, number).await;
        for _ in 0..CASES_PER_WORLD {
            let actor = rng.random_range(0..world.members.len());
            let what = draw(&mut rng, &world);
            let allowed = world.may(actor, &what);
            let (status, body) = ask(&app, &people.0[actor], &world, &what).await;
            // 50028 (a role nobody gives or moves) is a refusal as well.
            let refused = [50001, 50013, 50028]
                .iter()
                .any(|code| body["code"] == *code);
            if status.is_success() != allowed || (!allowed && !refused) {
                wrong.push(format!(
                    "{actor} {what:?}: {allowed}, but {status} {body}\n{world:#?}"
                ));
            }
            *counted.entry(allowed).or_default() += 1;
            if status.is_success() {
                store(&app, &world).await;
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.concat()
    );
    // Both sides must have been asked often, or the comparison says little.
    assert!(counted.values().sum::<usize>() >= 500, "{counted:?}");
    assert!(counted.values().all(|&count| count >= 120), "{counted:?}");
}
