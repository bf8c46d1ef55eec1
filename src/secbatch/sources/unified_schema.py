"""One schema for all files of an input: the same columns, in types that hold the values of all."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from secbatch.errors import InputError, shown
from secbatch.sources.input_file import InputFile

if TYPE_CHECKING:
    import pyarrow as pa

    from secbatch.sources.parquet_file import ParquetLayout

OUTPUTS_COLUMN = "secbatch_id"  # a column that each output has, and no input


def plain_type(kind: "pa.DataType", null: "pa.DataType | None" = None) -> "pa.DataType":
    """`kind` with `null`, else string, for the null type, and string and binary for their views, at any depth.

    Views are another layout of the same values in memory; Arrow cannot take rows from them. Nor does it size types
    like UUID inside others, which become what they are stored as, nor join no rows of tensors. Places in a dictionary
    get 32 bits: pandas writes 8 where a file has few categories, and those of several files together may be more.
    """
    import pyarrow as pa

    def inner(field: "pa.Field") -> "pa.Field":
        plain = field.type if pa.types.is_dictionary(field.type) else plain_type(field.type, null)
        return field.with_type(plain.storage_type if isinstance(plain, pa.BaseExtensionType) else plain)

    if pa.types.is_null(kind):
        return null or pa.string()
    if pa.types.is_string_view(kind):
        return pa.string()
    if isinstance(kind, pa.FixedShapeTensorType):
        return kind.storage_type
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return pa.dictionary(pa.int32(), plain_type(kind.value_type, null), kind.ordered)
    if pa.types.is_list(kind):
        return pa.list_(inner(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(inner(kind.value_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_field), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([inner(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(inner(kind.key_field), inner(kind.item_field))
    return kind


def unify(
    layouts: "Sequence[tuple[InputFile, ParquetLayout]]", earlier: "Mapping[str, pa.DataType] | None" = None
) -> "pa.Schema":
    """One schema for all files, in the order of the first one's columns.

    int32 and int64 become int64, int and float float64, null anything. `earlier`: types that columns have from earlier
    inputs; a column takes it where it holds its values. Raises InputError, naming two files, where columns differ or
    types have nothing in common.
    """
    import pyarrow as pa

    first_file, first = layouts[0]
    fields = {field.name: (field.type, first_file) for field in first.schema}
    for file, layout in layouts[1:]:
        check_same_columns(first_file.path, tuple(fields), file.path, tuple(layout.schema.names))
        for field in layout.schema:
            known, from_file = fields[field.name]
            both = common_type(known, field.type)
            if both is None:
                raise InputError(
                    f"column '{field.name}' is {known} in {from_file.path} but {field.type} in {file.path}; "
                    "bring the files to one type"
                )
            if both != known:
                fields[field.name] = (both, file)
    kinds = {name: kind for name, (kind, _) in fields.items()}
    for name, before in (earlier or {}).items():
        # Equal types may have other names in them, as lists in files have for their values: the input's stand.
        if name in kinds and plain_type(kinds[name]) != before == common_type(kinds[name], before):
            kinds[name] = before
    return pa.schema([pa.field(name, plain_type(kind)) for name, kind in kinds.items()])


def check_same_columns(first: str, names: Sequence[str], other: str, other_names: Sequence[str]) -> None:
    """InputError, naming file and column, unless both files have the same set of columns."""
    known, known_there = set(names), set(other_names)
    missing = [name for name in names if name not in known_there]
    extra = [name for name in other_names if name not in known]
    if not missing and not extra:
        return
    parts = []
    if missing:
        parts.append("lacks column " + ", ".join(f"'{shown(name)}'" for name in missing[:5]))
    if extra:
        parts.append("has the extra column " + ", ".join(f"'{shown(name)}'" for name in extra[:5]))
    remedy = "all files of a job need the same columns (their order does not matter)"
    outputs = [path for path, only in ((first, missing), (other, extra)) if OUTPUTS_COLUMN in only]
    if outputs:
        remedy = f"{outputs[0]} is of an output of secbatch, which belongs elsewhere than among the input"
    raise InputError(f"{other} {' and '.join(parts)}, compared with {first}; {remedy}")


def common_type(one: "pa.DataType", other: "pa.DataType") -> "pa.DataType | None":
    """The type that holds the values of both, or None."""
    import pyarrow as pa

    if one == other:
        return one
    one, other = (t.value_type if pa.types.is_dictionary(t) else t for t in (one, other))
    one, other = (plain_type(t, null=pa.null()) for t in (one, other))
    texts = (pa.types.is_string, pa.types.is_large_string)
    if all(any(is_text(t) for is_text in texts) for t in (one, other)):
        return pa.large_string() if pa.large_string() in (one, other) else pa.string()
    try:
        schemas = [pa.schema([("x", one)]), pa.schema([("x", other)])]
        both = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        for kind in (one, other):
            pa.nulls(1, kind).cast(both)  # some types unify that cannot be converted
        return both
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return None
