"""Which parts make the next version: this run's, and what is kept of earlier ones."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.errors import OutputError
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger, Part
from secbatch.store.parts import read_part, write_part


@dataclass(frozen=True)
class Assembly:
    """Builds the list of parts of a version. Parts are never changed: a part that loses rows is written anew."""

    layout: Layout
    ledger: Ledger
    schema: pa.Schema  # of the dataset, partition columns included
    partition_by: tuple[str, ...]
    metadata: dict[bytes, bytes]

    def without_superseded(self, parts: list[tuple[int, Part]], winners: dict[str, int]) -> list[Part]:
        """This run's parts, less the rows whose id stands again in a later shard.

        `parts`: shard index and part. `winners`: id -> index of the last shard that has it.
        """
        if not winners:
            return [part for _, part in parts]
        ids = pa.array(list(winners), pa.string())
        shards = np.fromiter(winners.values(), dtype=np.int64, count=len(winners))

        def loses(index: int) -> Callable[[pa.Table], np.ndarray]:
            def mask(rows: pa.Table) -> np.ndarray:
                places = pc.fill_null(pc.index_in(rows.column("secbatch_id"), value_set=ids), -1).to_numpy()
                return (places >= 0) & (shards[places] > index)

            return mask

        return [kept for index, part in parts if (kept := self._less(part, loses(index))) is not None]

    def kept(
        self,
        base: list[Part],
        current: list[Part],
        replaced_sources: set[str],
        present: Callable[[list[str]], np.ndarray],
    ) -> list[Part]:
        """What earlier runs' parts still hold: rows of files that this run did not read whole, under other ids.

        `present` tells which ids this run has.
        """
        names = {part.name for part in current}
        result = []
        for part in base:
            if part.name in names or set(part.sources) <= replaced_sources:
                continue

            def gone(rows: pa.Table) -> np.ndarray:
                sources = pc.is_in(
                    rows.column("secbatch_source"), value_set=pa.array(sorted(replaced_sources), pa.string())
                )
                return sources.to_numpy() | present(rows.column("secbatch_id").to_pylist())

            left = self._less(part, gone)
            if left is not None:
                result.append(self._conformed(left))
        return result

    def _less(self, part: Part, lost: Callable[[pa.Table], np.ndarray]) -> Part | None:
        """The part without the rows that `lost` marks: itself, a rewritten one, or None when nothing is left."""
        keys = read_part(self.layout.parts, part.files, ["secbatch_id", "secbatch_source"])
        mask = lost(keys)
        if not mask.any():
            return part
        if mask.all():
            return None
        return self._rewritten(part, self._read_whole(part).filter(pa.array(~mask)))

    def _conformed(self, part: Part) -> Part:
        """The part with this dataset's schema: missing columns null, columns of dropped tasks gone."""
        table = self._read_whole(part)
        if table.schema.equals(self.schema):
            return part
        columns = []
        for field in self.schema:
            if field.name not in table.column_names:
                columns.append(pa.nulls(table.num_rows, field.type))
                continue
            try:
                columns.append(table.column(field.name).cast(field.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                kind = table.schema.field(field.name).type
                raise OutputError(
                    f"Column '{field.name}' is {field.type} now but {kind} in rows kept from earlier runs, and they do "
                    "not convert; use `mode: overwrite`, or another output."
                ) from None
        return self._rewritten(part, pa.table(columns, schema=self.schema))

    def _read_whole(self, part: Part) -> pa.Table:
        """All rows with their partition columns, in file order."""
        tables = []
        for file in part.files:
            table = read_part(self.layout.parts, (file,)).replace_schema_metadata(None)
            for folder in file.split("/")[:-1]:
                name, _, text = folder.partition("=")
                table = table.append_column(
                    self._partition_field(name), self._partition_values(name, text, table.num_rows)
                )
            tables.append(table)
        table = pa.concat_tables(tables)
        known = [name for name in self.schema.names if name in table.column_names]
        return table.select([*known, *(name for name in table.column_names if name not in known)])

    def _partition_field(self, name: str) -> pa.Field:
        return self.schema.field(name) if name in self.schema.names else pa.field(name, pa.string())

    def _partition_values(self, name: str, text: str, rows: int) -> pa.Array:
        from urllib.parse import unquote

        from secbatch.store.parts import NULL_PARTITION

        kind = self._partition_field(name).type
        value = None if text == NULL_PARTITION else unquote(text)
        return pa.repeat(pa.scalar(value, pa.string()), rows).cast(kind)

    def _rewritten(self, part: Part, table: pa.Table) -> Part:
        digest = hashlib.sha256("\n".join(table.column("secbatch_id").to_pylist()).encode())
        digest.update(str(table.schema).encode())
        base = part.name.split("+", 1)[0]
        name = f"{base}+{digest.hexdigest()[:12]}"
        files = write_part(self.layout.parts, name, table.replace_schema_metadata(self.metadata), self.partition_by)
        rejected = int(pc.sum(pc.equal(table.column("secbatch_status"), "rejected")).as_py() or 0)
        # Its content key matches no shard: only whole shards are reused.
        left = replace(part, name=name, content=f"+{name}", files=files, rows=table.num_rows, rejected=rejected)
        self.ledger.add_part(left)
        return left
