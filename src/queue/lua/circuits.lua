-- Reads the circuits; one of another type counts as closed. KEYS: circuits. Answers {number of the key, since, next probe, code,
-- detail} for each that is open.
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
