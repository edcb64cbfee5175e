-- Returns the open circuits; a key of another type counts as closed.
-- KEYS: circuits. Returns {number of the key, since, next probe, code, detail} for each open one.
local open = {}
for at, key in ipairs(KEYS) do
  if redis.call('TYPE', key).ok == 'hash' then
    local since, probe, code, detail = unpack(redis.call('HMGET', key, 'since', 'next_probe', 'code', 'detail'))
    if is_whole(since) and is_whole(probe) then
      open[#open + 1] = { at, since, probe, code or '', detail or '' }
    end
  end
end
return open
