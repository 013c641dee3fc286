-- Standard stickers: packs that the operator brings, for everybody on this server.

create table sticker_pack (
    pack_id          bigint primary key,
    -- What an import knows a pack by.
    name             text not null unique,
    description      text,
    cover_sticker_id bigint
);

-- Beside the stickers of guilds, so that code that knows no packs goes on reading those.
create table pack_sticker (
    sticker_id  bigint primary key,
    pack_id     bigint not null references sticker_pack on delete cascade,
    name        text not null,
    description text,
    tags        text not null,
    -- As sticker.format.
    format      smallint not null,
    sort_value  integer not null,
    unique (pack_id, name)
);
select media_follow_column('pack_sticker', 'stickers', 'sticker_id');
