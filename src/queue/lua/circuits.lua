-- Reads the circuits. KEYS: circuits. Answers {number of the key, since, next probe, code, detail} for each that is open.
local wrong
for _, key in ipairs(KEYS) do
  wrong = wrong or misused(key, 'hash')
end
if wrong then
  return wrong
end
local open = {}
for at, key in ipairs(KEYS) do
  local since, probe, code, detail = unpack(redis.call('HMGET', key, 'since', 'next_probe', 'code', 'detail'))
  if is_whole(since) and is_whole(probe) then
    open[#open + 1] = { at, since, probe, code or '', detail or '' }
  end
end
return open
