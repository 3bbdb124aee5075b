UPDATE double_exports SET resolved_at = $2, resolved_by = $3, note = $4 WHERE id = $1 RETURNING *
