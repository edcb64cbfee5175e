-- Returns the server's clock, from a server that keeps what is written to it. KEYS: a key that a check may leave for a second.
-- A full server accepts this write, too. A replica refuses it, unless it is set to accept writes, which it then loses.
redis.call('DEL', KEYS[1])
local replication = redis.pcall('INFO', 'replication')
if type(replication) == 'string' and string.find(replication, 'role:slave', 1, true) then
  return redis.error_reply("READONLY it is a replica that takes writes (replica-read-only no) and loses them again")
end
return redis.call('TIME')
