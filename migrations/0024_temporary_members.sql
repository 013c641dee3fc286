-- Who came by a temporary invite: a member until their last session has ended, or for good
-- once they have a role. Gateways say whom they see, housekeeping of the API removes the others.
create table temporary_member (
    guild_id bigint not null,
    user_id  bigint not null,
    -- When a gateway last had a session of the user; null: none has yet.
    seen_at  timestamptz,
    primary key (guild_id, user_id),
    foreign key (guild_id, user_id) references member on delete cascade
);
create index temporary_member_user_idx on temporary_member (user_id);
