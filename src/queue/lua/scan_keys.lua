-- Takes one step through the members of one key, a hash or a sorted set. Changes nothing.
-- KEYS: the key. ARGV: command (HSCAN or ZSCAN), cursor, count, largest id and value, bytes shown of larger ones.
-- Returns {next cursor, rows}; a row is {id, id size, id digest, value size, value or score}. Of a larger id or value only the
-- start is returned.
local largest, shown = tonumber(ARGV[4]), tonumber(ARGV[5])
local found = redis.call(ARGV[1], KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local rows = {}
for i = 1, #found[2], 2 do
  local id, value = found[2][i], found[2][i + 1]
  local id_size, size, digest = #id, #value, ''
  if id_size > largest then
    id, digest = string.sub(id, 1, shown), redis.sha1hex(id)
  end
  if size > largest or digest ~= '' then
    value = string.sub(value, 1, shown)
  end
  rows[#rows + 1] = { id, id_size, digest, size, value }
end
return { found[1], rows }
