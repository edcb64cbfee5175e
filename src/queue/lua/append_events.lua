-- Appends entries to a stream that other programs read.
-- KEYS: the stream. ARGV: about how many entries are kept, then of each entry: twice the number of its fields, and those
-- as name, value. Answers how many were appended.
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
