-- Appends events to a stream that other programs read.
-- KEYS: the stream. ARGV: the approximate number of events to keep; then for each event twice the number of its fields, and the
-- fields as name, value. Returns the number of events appended.
local found = redis.call('TYPE', KEYS[1]).ok
if found ~= 'none' and found ~= 'stream' then
  return redis.error_reply('QUEUE key ' .. KEYS[1] .. ' holds a ' .. found .. ', expected a stream')
end
local most, at, appended = ARGV[1], 2, 0
while at <= #ARGV do
  local size = tonumber(ARGV[at])
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', most, '*', unpack(ARGV, at + 1, at + size))
  at = at + 1 + size
  appended = appended + 1
end
return appended
