insert into clan_memberships (player_tag, clan_tag, joined_at) values (?1, ?2, ?3)
