//! Accounts: who a token belongs to, and what IDENTIFY needs to know of them.

use std::collections::HashMap;

use guildhall_shared::{
    id::{Id, marker},
    model::{CurrentUser, PrivateChannel, PrivateUser},
    shard::{Position, realm},
    token::TokenHash,
};
use sqlx::{PgExecutor, PgPool};

use crate::{
    Result,
    personal::{self, Personal},
    private, user_of,
};

/// The account behind a token.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    pub user: CurrentUser,
    /// A bot's application and its flags.
    pub application: Option<(Id<marker::Application>, u64)>,
    /// Number of the newest event of the user's realm that changed what the token
    /// may do: the account read here is the current one while the realm's head still
    /// says so (USER_UPDATE and revoked tokens raise it).
    pub state_seq: u64,
}

/// What IDENTIFY reads, all at one moment: events of the user's realm after `position`
/// are changes to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    pub user: CurrentUser,
    /// A bot's application and its flags.
    pub application: Option<(Id<marker::Application>, u64)>,
    pub position: Position,
    /// Of users: the DMs and group DMs they list.
    pub private_channels: Vec<PrivateChannel>,
    /// Ascending.
    pub guilds: Vec<Id<marker::Guild>>,
    /// Of people; bots have nothing of the kind.
    pub personal: Option<Box<Personal>>,
}

/// An account's row with its application's.
#[derive(Clone)]
struct AccountRow {
    user_id: i64,
    username: String,
    discriminator: String,
    global_name: Option<String>,
    avatar: Option<String>,
    banner: Option<String>,
    accent_color: Option<i32>,
    bot: bool,
    public_flags: i64,
    locale: String,
    verified: bool,
    email: Option<String>,
    bio: String,
    pronouns: String,
    mfa_enabled: bool,
    application_id: Option<i64>,
    application_flags: Option<i64>,
    state_seq: i64,
}

impl From<AccountRow> for Account {
    fn from(row: AccountRow) -> Self {
        let private = (!row.bot).then(|| PrivateUser {
            nsfw_allowed: true,
            authenticator_types: if row.mfa_enabled { vec![2] } else { Vec::new() },
            ..PrivateUser::default()
        });
        Self {
            application: application(row.application_id, row.application_flags),
            state_seq: row.state_seq as u64,
            user: CurrentUser {
                user: user_of!(row),
                mfa_enabled: row.mfa_enabled,
                locale: row.locale,
                verified: row.verified,
                email: row.email,
                premium_type: 0,
                bio: row.bio,
                pronouns: row.pronouns,
                private,
            },
        }
    }
}

/// The account of a token; `None` if the token is unknown or revoked, or the account locked. Of a bot
/// `mfa_enabled` is its owner's.
pub async fn by_token(db: impl PgExecutor<'_>, token: TokenHash) -> Result<Option<Account>> {
    let row = sqlx::query_as!(
        AccountRow,
        r#"select a.user_id, a.username, a.discriminator, a.global_name, a.avatar, a.banner,
                  a.accent_color, a.bot, a.public_flags, a.locale, a.verified, a.email, a.bio,
                  a.pronouns, p.application_id as "application_id?", p.flags as "application_flags?",
                  exists (select from account_mfa f
                          where f.user_id = coalesce(p.owner_id, a.user_id)) as "mfa_enabled!",
                  h.state_seq
           from auth_token t
           join account a using (user_id)
           join realm_head h on h.realm_id = a.user_id
           left join application p on p.application_id = a.user_id
           where t.token_hash = $1 and a.state = 0"#,
        token.0.as_slice(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Into::into))
}

/// The accounts of tokens, in their order, as [`by_token`] finds each: one statement for all.
pub async fn by_tokens(
    db: impl PgExecutor<'_>,
    tokens: &[TokenHash],
) -> Result<Vec<Option<Account>>> {
    let found = read_tokens(db, tokens, Wanted::Account).await?;
    let account = |token: &TokenHash| Some(Account::from(found.get(token)?.account.clone()));
    Ok(tokens.iter().map(account).collect())
}

/// Whose a token is, to who identifies many at once.
#[derive(Debug, Clone, PartialEq)]
pub enum Identified {
    Bot(Box<Identity>),
    /// A person: [`identify`] reads what theirs takes.
    Person(Id<marker::User>),
    /// Unknown or revoked, or the account is locked.
    Nobody,
}

/// What sessions start from that identify at once, in the order of their tokens: of bots all,
/// by one statement, which sees one moment.
pub async fn identify_many(
    db: impl PgExecutor<'_>,
    tokens: &[TokenHash],
) -> Result<Vec<Identified>> {
    let found = read_tokens(db, tokens, Wanted::Guilds).await?;
    let identified = |token: &TokenHash| match found.get(token) {
        None => Identified::Nobody,
        Some(row) if !row.account.bot => Identified::Person(Id::from_db(row.account.user_id)),
        Some(row) => {
            let account = Account::from(row.account.clone());
            Identified::Bot(Box::new(Identity {
                user: account.user,
                application: account.application,
                position: row.position,
                private_channels: Vec::new(),
                guilds: crate::ids_from_db(row.guilds.clone()),
                personal: None,
            }))
        }
    };
    Ok(tokens.iter().map(identified).collect())
}

/// What is read of tokens' accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Account,
    /// Also the guilds of bots.
    Guilds,
}

struct TokenRow {
    account: AccountRow,
    position: Position,
    /// Of a bot, ascending.
    guilds: Vec<i64>,
}

async fn read_tokens(
    db: impl PgExecutor<'_>,
    tokens: &[TokenHash],
    wanted: Wanted,
) -> Result<HashMap<TokenHash, TokenRow>> {
    let hashes: Vec<Vec<u8>> = tokens.iter().map(|token| token.0.to_vec()).collect();
    let rows = sqlx::query!(
        r#"select t.token_hash, a.user_id, a.username, a.discriminator, a.global_name, a.avatar,
                  a.banner, a.accent_color, a.bot, a.public_flags, a.locale, a.verified, a.email,
                  a.bio, a.pronouns, p.application_id as "application_id?",
                  p.flags as "application_flags?",
                  exists (select from account_mfa f
                          where f.user_id = coalesce(p.owner_id, a.user_id)) as "mfa_enabled!",
                  h.state_seq, h.era, h.seq,
                  -- Members of a deleted guild stay until they are collected.
                  array(select m.guild_id from member m join guild g using (guild_id)
                        where $2 and a.bot and m.user_id = a.user_id
                        order by m.guild_id) as "guilds!"
           from auth_token t
           join account a using (user_id)
           join realm_head h on h.realm_id = a.user_id
           left join application p on p.application_id = a.user_id
           where t.token_hash = any($1) and a.state = 0"#,
        &hashes,
        wanted == Wanted::Guilds,
    )
    .fetch_all(db)
    .await?;
    let rows = rows.into_iter().filter_map(|row| {
        let token = TokenHash(row.token_hash.try_into().ok()?);
        let account = AccountRow {
            user_id: row.user_id,
            username: row.username,
            discriminator: row.discriminator,
            global_name: row.global_name,
            avatar: row.avatar,
            banner: row.banner,
            accent_color: row.accent_color,
            bot: row.bot,
            public_flags: row.public_flags,
            locale: row.locale,
            verified: row.verified,
            email: row.email,
            bio: row.bio,
            pronouns: row.pronouns,
            mfa_enabled: row.mfa_enabled,
            application_id: row.application_id,
            application_flags: row.application_flags,
            state_seq: row.state_seq,
        };
        let position = Position {
            era: row.era as u32,
            seq: row.seq as u64,
        };
        let guilds = row.guilds;
        let found = TokenRow {
            account,
            position,
            guilds,
        };
        Some((token, found))
    });
    Ok(rows.collect())
}

/// An account by its id, as its owner sees it.
pub async fn by_id(db: impl PgExecutor<'_>, id: Id<marker::User>) -> Result<Option<Account>> {
    let row = sqlx::query_as!(
        AccountRow,
        r#"select a.user_id, a.username, a.discriminator, a.global_name, a.avatar, a.banner,
                  a.accent_color, a.bot, a.public_flags, a.locale, a.verified, a.email, a.bio,
                  a.pronouns, p.application_id as "application_id?", p.flags as "application_flags?",
                  exists (select from account_mfa f
                          where f.user_id = coalesce(p.owner_id, a.user_id)) as "mfa_enabled!",
                  h.state_seq
           from account a
           join realm_head h on h.realm_id = a.user_id
           left join application p on p.application_id = a.user_id
           where a.user_id = $1"#,
        id.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Into::into))
}

/// What a session that identifies with this token starts from.
pub async fn identify(db: &PgPool, token: TokenHash) -> Result<Option<Identity>> {
    let mut tx = db.begin_with(crate::SNAPSHOT).await?;
    let Some(account) = by_token(&mut *tx, token).await? else {
        return Ok(None);
    };
    let id = account.user.user.id;
    let head = sqlx::query!(
        "select era, seq from realm_head where realm_id = $1",
        realm(id).to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    let guilds = guild_ids(&mut *tx, id).await?;
    let (mut private_channels, mut personal) = (Vec::new(), None);
    if !account.user.user.bot {
        let open = private::open_ids(&mut *tx, id).await?;
        private_channels = private::by_ids(&mut tx, id, &open).await?;
        personal = Some(Box::new(personal::all(&mut tx, id).await?));
    }
    tx.commit().await?;
    Ok(Some(Identity {
        user: account.user,
        application: account.application,
        position: Position {
            era: head.era as u32,
            seq: head.seq as u64,
        },
        private_channels,
        guilds,
        personal,
    }))
}

/// The guilds a user is in, ascending.
pub async fn guild_ids(
    db: impl PgExecutor<'_>,
    user: Id<marker::User>,
) -> Result<Vec<Id<marker::Guild>>> {
    let ids = sqlx::query_scalar!(
        // Members of a deleted guild stay until they are collected.
        "select guild_id from member join guild using (guild_id)
         where user_id = $1 order by guild_id",
        user.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(crate::ids_from_db(ids))
}

fn application(id: Option<i64>, flags: Option<i64>) -> Option<(Id<marker::Application>, u64)> {
    Some((Id::from_db(id?), flags? as u64))
}
