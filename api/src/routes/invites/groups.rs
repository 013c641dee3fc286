//! Invites to group DMs: who is in one makes them, and who takes one comes in as who is added does.
//! Spec: objects.md › Invite.
//!
//! No event tells of them: only bots hear of invites, and bots are in no group.

use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::Envelope,
    error_code::ErrorCode,
    id::marker::{self, Channel},
    model::{
        ChannelKind, GroupInvite, InviteGroup, InviteMetadata, InviteRecipient, RelationshipKind,
        User,
    },
};
use guildhall_store::user::UserRow;
use sqlx::{PgConnection, PgTransaction, types::Json as Jsonb};
use time::{Duration, OffsetDateTime};

use super::{CODE_LENGTH, CreateInvite, INVITES_MAX, MAX_AGE_DEFAULT};
use crate::{
    access::{self, Place, PrivateAccess},
    account,
    app::App,
    auth::CurrentUser,
    error::Result,
    form::{Fault, FormErrors},
    routes::{dms, relationships},
    text::random_code,
};

/// A stored invite with all that its reply shows.
struct Row {
    code: String,
    max_age: i32,
    uses: i32,
    created_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    channel_id: i64,
    channel_name: Option<String>,
    channel_icon: Option<String>,
    recipients: Jsonb<Vec<InviteRecipient>>,
    user_id: i64,
    username: String,
    discriminator: String,
    global_name: Option<String>,
    avatar: Option<String>,
    banner: Option<String>,
    accent_color: Option<i32>,
    bot: bool,
    public_flags: i64,
}

impl From<Row> for GroupInvite {
    fn from(row: Row) -> Self {
        let inviter = UserRow {
            user_id: row.user_id,
            username: row.username,
            discriminator: row.discriminator,
            global_name: row.global_name,
            avatar: row.avatar,
            banner: row.banner,
            accent_color: row.accent_color,
            bot: row.bot,
            public_flags: row.public_flags,
        };
        Self {
            kind: 1,
            code: row.code,
            inviter: inviter.into(),
            expires_at: Timestamp(row.expires_at),
            channel: InviteGroup {
                id: Id::from_db(row.channel_id),
                kind: ChannelKind::GROUP_DM,
                name: row.channel_name,
                icon: row.channel_icon,
                recipients: row.recipients.0,
            },
            approximate_member_count: None,
            metadata: Some(InviteMetadata {
                uses: row.uses as u32,
                max_uses: 0,
                max_age: row.max_age as u32,
                temporary: false,
                created_at: Timestamp(row.created_at),
            }),
        }
    }
}

/// Which invites [`read`] reads.
#[derive(Debug, Clone, Copy)]
enum Of<'a> {
    Code(&'a str),
    Channel(Id<Channel>),
}

/// Invites that can be used.
async fn read(db: &mut PgConnection, of: Of<'_>) -> Result<Vec<GroupInvite>> {
    // A statement for each index: a plan that is kept for all values has no use for one whose
    // column may be anything.
    macro_rules! select {
        ($place:literal, $value:expr) => {
            sqlx::query_as!(
                Row,
                r#"select i.code, i.max_age, i.uses, i.created_at, i.expires_at, i.channel_id,
                          c.name as channel_name, c.icon as channel_icon,
                          (select coalesce(jsonb_agg(jsonb_build_object(
                             'id', p.user_id::text, 'username', p.username, 'avatar', p.avatar)
                             order by p.user_id), '[]')
                           from private_recipient r join account p on p.user_id = r.user_id
                           where r.channel_id = i.channel_id)
                            as "recipients!: Jsonb<Vec<InviteRecipient>>",
                          a.user_id, a.username, a.discriminator, a.global_name, a.avatar, a.banner,
                          a.accent_color, a.bot, a.public_flags
                   from group_invite i
                   join channel c on c.channel_id = i.channel_id
                   join account a on a.user_id = i.inviter_id
                   where "#
                    + $place
                    + " and i.expires_at > now() order by i.created_at",
                $value,
            )
            .fetch_all(db)
            .await?
        };
    }
    let rows = match of {
        Of::Code(code) => select!("i.code = $1", code),
        Of::Channel(channel) => select!("i.channel_id = $1", channel.to_db()),
    };
    Ok(rows.into_iter().map(GroupInvite::from).collect())
}

/// `None` for what is no code of a group's invite, or of one that has expired.
pub(super) async fn by_code(db: &mut PgConnection, code: &str) -> Result<Option<GroupInvite>> {
    Ok(read(db, Of::Code(code)).await?.pop())
}

/// For everybody who is in the group. Errors: 50003.
pub(super) async fn list(
    db: &mut PgConnection,
    access: &PrivateAccess,
) -> Result<Vec<GroupInvite>> {
    require_group(access)?;
    read(db, Of::Channel(access.id)).await
}

/// Errors: 50003 for a DM of two.
fn require_group(access: &PrivateAccess) -> Result<()> {
    match access.kind {
        ChannelKind::GROUP_DM => Ok(()),
        _ => Err(ErrorCode::CannotOnDm.into()),
    }
}

/// Makes one by somebody in the group, which is locked. Errors: 30016, 50003, 50035.
pub(super) async fn create(
    mut tx: PgTransaction<'_>,
    user: &CurrentUser,
    access: &PrivateAccess,
    body: &CreateInvite,
) -> Result<GroupInvite> {
    require_group(access)?;
    let max_age = body.max_age.unwrap_or(MAX_AGE_DEFAULT);
    // One that never expires is for guilds.
    if max_age == 0 {
        return Err(FormErrors::one("max_age", Fault::Min(1)));
    }
    let known = read(&mut tx, Of::Channel(access.id)).await?;
    let count = known.len();
    let same = known.into_iter().find(|invite| {
        let metadata = invite.metadata.as_ref();
        invite.inviter.id == user.id && metadata.is_some_and(|it| it.max_age == max_age)
    });
    if let Some(same) = same.filter(|_| !body.unique.unwrap_or_default()) {
        return Ok(same);
    }
    if count >= INVITES_MAX as usize {
        return Err(ErrorCode::MaximumInvites.into());
    }
    let code = random_code(CODE_LENGTH);
    let created_at = OffsetDateTime::now_utc();
    sqlx::query!(
        "insert into group_invite (channel_id, code, inviter_id, max_age, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6)",
        access.id.to_db(),
        code,
        user.id.to_db(),
        max_age as i32,
        created_at,
        created_at + Duration::seconds(i64::from(max_age)),
    )
    .execute(&mut *tx)
    .await?;
    let invite = by_code(&mut tx, &code).await?;
    let invite = invite.ok_or(ErrorCode::UnknownInvite)?;
    tx.commit().await?;
    Ok(invite)
}

/// Brings somebody into the group of an invite; false if they were in it. The events are to be
/// published after the commit.
///
/// Errors: 10006 also for whom the inviter blocks, 10013 for who has deleted their account, 30004.
pub(super) async fn accept(
    app: &App,
    db: &mut PgConnection,
    user: &User,
    invite: &GroupInvite,
) -> Result<(bool, Vec<Envelope>)> {
    dms::lock_with(&mut *db, invite.channel.id, user.id).await?;
    // Again, now that nobody else comes or goes.
    let invite = by_code(&mut *db, &invite.code).await?;
    let invite = invite.ok_or(ErrorCode::UnknownInvite)?;
    let recipients = invite.channel.recipients.iter();
    let inside: Vec<Id<marker::User>> = recipients.map(|one| one.id).collect();
    if inside.contains(&user.id) {
        return Ok((false, Vec::new()));
    }
    account::require_not_deleted(&mut *db, user.id).await?;
    let regard = relationships::kind(&mut *db, invite.inviter.id, user.id).await?;
    if regard == Some(RelationshipKind::Blocked) {
        return Err(ErrorCode::UnknownInvite.into());
    }
    let told = dms::add(app, &mut *db, user, invite.channel.id, &inside, user, None).await?;
    sqlx::query!(
        "update group_invite set uses = uses + 1 where code = $1",
        invite.code,
    )
    .execute(db)
    .await?;
    Ok((true, told))
}

/// For who made it, and for the group's owner. Errors: 10003, 10006, 50013.
pub(super) async fn revoke(
    db: &mut PgConnection,
    user: &CurrentUser,
    invite: &GroupInvite,
) -> Result<()> {
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place(&mut *db, user, invite.channel.id, needed).await?;
    let Place::Private(access) = place else {
        return Err(ErrorCode::UnknownInvite.into());
    };
    if invite.inviter.id != user.id && access.owner != Some(user.id) {
        return Err(ErrorCode::MissingPermissions.into());
    }
    let gone = sqlx::query!("delete from group_invite where code = $1", invite.code)
        .execute(db)
        .await?;
    match gone.rows_affected() {
        // Somebody else was quicker.
        0 => Err(ErrorCode::UnknownInvite.into()),
        _ => Ok(()),
    }
}
