update clan_memberships set left_at = ?2 where id = ?1 and left_at is null
