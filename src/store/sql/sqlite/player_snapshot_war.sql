update player_snapshots set war_attacks_used = ?1, last_seen = ?2 where id = ?3
