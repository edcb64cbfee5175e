-- Ends a cooldown. KEYS: slot, copies. Returns 1 when there was one, else 0.
if is_cooling_down(kept(KEYS[1])) then
  forget(KEYS[1])
  return 1
end
return 0
