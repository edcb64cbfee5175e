-- The server's clock, from a server that keeps what is written to it. KEYS: one that a check may leave for a second.
-- A write that a full server does too. A replica refuses it, unless it was told to take writes, which it loses.
redis.call('DEL', KEYS[1])
local replication = redis.pcall('INFO', 'replication')
if type(replication) == 'string' and string.find(replication, 'role:slave', 1, true) then
  return redis.error_reply("READONLY it is a replica that takes writes (replica-read-only no) and loses them again")
end
return redis.call('TIME')
