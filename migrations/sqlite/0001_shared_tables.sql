-- The six shared tables, in the same shape as in PostgreSQL.
-- Times are UTC as text, `YYYY-MM-DD HH:MM:SS.ffffff`, so that comparing texts compares times. Documents are JSON text.

create table clans (
    tag        text primary key not null,  -- upper case, without #
    data       text check (json_valid(data)),  -- the API's answer as received, with `deep_link` as its last key
    updated_at text default (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    deep_link  text
);

create table players (
    tag        text primary key not null,
    name       text,
    town_hall  integer,
    role       text,
    clan_tag   text,  -- empty: in no clan
    updated_at text default (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    data       text check (json_valid(data)),  -- of a player seen in a clan only, the short form from the member list
    deep_link  text
);

create table clan_snapshots (
    id           integer primary key,
    ts           text,  -- when the call began; readers take freshness from the newest row
    clan_tag     text,
    name         text,
    member_count integer,
    level        integer,
    war_wins     integer,
    war_losses   integer,  -- unknown when the war log is private
    data         text check (json_valid(data)),
    constraint uq_clan_ts unique (clan_tag, ts)
);

create table player_snapshots (
    id                 integer primary key,
    ts                 text,
    player_tag         text,
    clan_tag           text,  -- empty: in no clan
    name               text,
    role               text,
    town_hall          integer,
    trophies           integer,
    donations          integer,
    donations_received integer,
    war_attacks_used   integer,
    last_seen          text,  -- the latest refresh that showed activity
    data               text check (json_valid(data)),
    constraint uq_player_ts unique (player_tag, ts)
);

create table war_snapshots (
    id       integer primary key,
    ts       text,
    clan_tag text,
    data     text check (json_valid(data)),
    constraint uq_war_ts unique (clan_tag, ts)
);

create table clan_memberships (
    id         integer primary key,
    player_tag text,
    clan_tag   text,
    joined_at  text not null,
    left_at    text,  -- null: still there
    constraint uq_clan_membership unique (player_tag, clan_tag, joined_at)
);

create index ix_players_clan_tag on players (clan_tag);
create index ix_clan_snapshots_ts on clan_snapshots (ts);
create index ix_player_snapshots_clan_tag on player_snapshots (clan_tag);
create index ix_player_snapshots_ts on player_snapshots (ts);
create index ix_player_snapshots_last_seen on player_snapshots (last_seen);
create index ix_war_snapshots_ts on war_snapshots (ts);
create index ix_clan_memberships_clan_tag on clan_memberships (clan_tag);
