-- Puts values under ids; where one is taken, under the second id. KEYS: data.
-- ARGV: of each: taken (0 or 1), id, value, second id, second value. Answers 1 for the first id, 2 for the second.
local data = KEYS[1]
local wrong = misused(data, 'hash')
if wrong then
  return wrong
end

local answers = {}
for at = 1, #ARGV, 5 do
  if ARGV[at] == '0' and redis.call('HSETNX', data, ARGV[at + 1], ARGV[at + 2]) == 1 then
    answers[#answers + 1] = 1
  else
    redis.call('HSET', data, ARGV[at + 3], ARGV[at + 4])
    answers[#answers + 1] = 2
  end
end
return answers
