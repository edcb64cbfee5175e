-- Ends a rest. KEYS: slot, copies. Answers 1 when there was one.
if rests(kept(KEYS[1])) then
  forget(KEYS[1])
  return 1
end
return 0
