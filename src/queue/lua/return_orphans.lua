-- Moves index entries that wait for their data back into the index. ARGV: the most to move. Returns the number moved.
local most = whole(1)
local wrong = problem()
if wrong then
  return wrong
end

local found = redis.call('ZRANGE', ORPHANS, 0, most - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local class = (tonumber(found[i + 1]) % 1) * 4
  redis.call('ZADD', INDEX, 'NX', num(class), found[i])
  redis.call('ZREM', ORPHANS, found[i])
end
return #found / 2
