-- The six tables that other programs read, in the shape that those programs gave them. Existing tables stay unchanged, and need
-- no right to create: a table is created whole, with its indexes, or not touched.
DO $$
BEGIN
    IF to_regclass('clans') IS NULL THEN
        CREATE TABLE clans (
            tag        varchar(15) NOT NULL,
            data       json,
            updated_at timestamp without time zone DEFAULT now(),
            deep_link  varchar(255),
            CONSTRAINT clans_pkey PRIMARY KEY (tag)
        );
    END IF;

    IF to_regclass('players') IS NULL THEN
        CREATE TABLE players (
            tag        varchar(15) NOT NULL,
            name       varchar(50),
            town_hall  integer,
            role       varchar(20),
            clan_tag   varchar(15),
            updated_at timestamp without time zone DEFAULT now(),
            data       json,
            deep_link  varchar(255),
            CONSTRAINT players_pkey PRIMARY KEY (tag)
        );
        CREATE INDEX ix_players_clan_tag ON players (clan_tag);
    END IF;

    IF to_regclass('clan_snapshots') IS NULL THEN
        CREATE TABLE clan_snapshots (
            id           bigserial NOT NULL,
            ts           timestamp without time zone,
            clan_tag     varchar(15),
            name         varchar(50),
            member_count integer,
            level        integer,
            war_wins     integer,
            war_losses   integer,
            data         json,
            CONSTRAINT clan_snapshots_pkey PRIMARY KEY (id),
            CONSTRAINT uq_clan_ts UNIQUE (clan_tag, ts)
        );
        CREATE INDEX ix_clan_snapshots_clan_tag ON clan_snapshots (clan_tag);
        CREATE INDEX ix_clan_snapshots_ts ON clan_snapshots (ts);
    END IF;

    IF to_regclass('player_snapshots') IS NULL THEN
        CREATE TABLE player_snapshots (
            id                 bigserial NOT NULL,
            ts                 timestamp without time zone,
            player_tag         varchar(15),
            clan_tag           varchar(15),
            name               varchar(50),
            role               varchar(20),
            town_hall          integer,
            trophies           integer,
            donations          integer,
            donations_received integer,
            war_attacks_used   integer,
            last_seen          timestamp without time zone,
            data               json,
            CONSTRAINT player_snapshots_pkey PRIMARY KEY (id),
            CONSTRAINT uq_player_ts UNIQUE (player_tag, ts)
        );
        CREATE INDEX ix_player_snapshots_player_tag ON player_snapshots (player_tag);
        CREATE INDEX ix_player_snapshots_clan_tag ON player_snapshots (clan_tag);
        CREATE INDEX ix_player_snapshots_ts ON player_snapshots (ts);
        CREATE INDEX ix_player_snapshots_last_seen ON player_snapshots (last_seen);
    END IF;

    IF to_regclass('war_snapshots') IS NULL THEN
        CREATE TABLE war_snapshots (
            id       bigserial NOT NULL,
            ts       timestamp without time zone,
            clan_tag varchar(15),
            data     json,
            CONSTRAINT war_snapshots_pkey PRIMARY KEY (id),
            CONSTRAINT uq_war_ts UNIQUE (clan_tag, ts)
        );
        CREATE INDEX ix_war_snapshots_clan_tag ON war_snapshots (clan_tag);
        CREATE INDEX ix_war_snapshots_ts ON war_snapshots (ts);
    END IF;

    IF to_regclass('clan_memberships') IS NULL THEN
        CREATE TABLE clan_memberships (
            id         bigserial NOT NULL,
            player_tag varchar(15),
            clan_tag   varchar(15),
            joined_at  timestamp without time zone NOT NULL,
            left_at    timestamp without time zone,
            CONSTRAINT clan_memberships_pkey PRIMARY KEY (id),
            CONSTRAINT uq_clan_membership UNIQUE (player_tag, clan_tag, joined_at)
        );
        CREATE INDEX ix_clan_memberships_clan_tag ON clan_memberships (clan_tag);
        CREATE INDEX ix_clan_memberships_player_tag ON clan_memberships (player_tag);
    END IF;
END
$$;
