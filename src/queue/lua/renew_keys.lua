-- Extends the slots that the run still holds. KEYS: slots, copies. ARGV: run, lifetime in ms. Answers 1 or 0 for each.
local wrong = not_whole(2)
if wrong then
  return wrong
end
local answers = {}
for i = 1, #KEYS - 1 do
  local ours = kept(KEYS[i]) == ARGV[1]
  if ours then
    keep(KEYS[i], ARGV[1], tonumber(ARGV[2]))
  end
  answers[i] = ours and 1 or 0
end
return answers
