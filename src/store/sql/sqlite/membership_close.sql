update clan_memberships set left_at = ?1 where id = ?2
