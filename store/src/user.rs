//! Accounts as everybody sees them.

use guildhall_shared::{id::Id, model::User};

/// Columns of `account` that make a [`User`]. Select them as `a.user_id, a.username, …`.
#[derive(Debug)]
pub struct UserRow {
    pub user_id: i64,
    pub username: String,
    pub discriminator: String,
    pub global_name: Option<String>,
    pub avatar: Option<String>,
    pub banner: Option<String>,
    pub accent_color: Option<i32>,
    pub bot: bool,
    pub public_flags: i64,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        Self {
            id: Id::from_db(row.user_id),
            username: row.username,
            discriminator: row.discriminator,
            global_name: row.global_name,
            avatar: row.avatar,
            bot: row.bot,
            public_flags: row.public_flags as u64,
            // Private flags are for nobody's eyes; the public ones go out under both names.
            flags: row.public_flags as u64,
            banner: row.banner,
            accent_color: row.accent_color.map(|color| color as u32),
            avatar_decoration_data: None,
            collectibles: None,
            primary_guild: None,
        }
    }
}

/// The [`User`] in a row that holds the columns of [`UserRow`] among others.
#[macro_export]
macro_rules! user_of {
    ($row:ident) => {
        guildhall_shared::model::User::from($crate::user::UserRow {
            user_id: $row.user_id,
            username: $row.username,
            discriminator: $row.discriminator,
            global_name: $row.global_name,
            avatar: $row.avatar,
            banner: $row.banner,
            accent_color: $row.accent_color,
            bot: $row.bot,
            public_flags: $row.public_flags,
        })
    };
}

/// [`user_of`] a row whose account may be gone (`left join`): then `None`.
macro_rules! creator_of {
    ($row:ident) => {
        $row.user_id.map(|user_id| {
            guildhall_shared::model::User::from($crate::user::UserRow {
                user_id,
                username: $row.username.unwrap_or_default(),
                discriminator: $row.discriminator.unwrap_or_default(),
                global_name: $row.global_name,
                avatar: $row.avatar,
                banner: $row.banner,
                accent_color: $row.accent_color,
                bot: $row.bot.unwrap_or_default(),
                public_flags: $row.public_flags.unwrap_or_default(),
            })
        })
    };
}
pub(crate) use creator_of;
