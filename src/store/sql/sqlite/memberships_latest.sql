-- When this player last came or went, by any clan.
select max(max(joined_at), coalesce(max(left_at), '')) from clan_memberships where player_tag = ?1
