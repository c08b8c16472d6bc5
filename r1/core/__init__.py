"""What every part uses: errors, files, records on disk, batch arithmetic. Imports no other part."""
