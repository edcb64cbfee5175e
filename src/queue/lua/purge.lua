-- Deletes dead letters for good, each unless it changed since it was listed.
-- ARGV: for each dead letter name, time of death, merges (0 for a dead entry). Returns the number deleted.
local letters = {}
for at = 1, #ARGV, 3 do
  letters[#letters + 1] = { name = text(at), died = whole(at + 1), merges = whole(at + 2) }
end
local wrong = problem()
if wrong then
  return wrong
end

local count = 0
for _, letter in ipairs(letters) do
  local set = string.sub(letter.name, 1, 5) == 'mail:' and DEAD_ENTRIES or DEAD
  local is_as_listed = tonumber(redis.call('ZSCORE', set, letter.name) or -1) == letter.died
  if is_as_listed and set == DEAD then
    local record = load(letter.name)
    is_as_listed = record and record.state == 'dead' and record.merges == letter.merges
  end
  if is_as_listed then
    forget(letter.name, set)
    count = count + 1
  end
end
return count
