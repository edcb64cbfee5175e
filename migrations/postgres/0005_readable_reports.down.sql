-- The view is as good for what was before.
SELECT 1;
