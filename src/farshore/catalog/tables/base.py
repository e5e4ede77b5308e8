"""The base of all tables: how constraints are named, and which columns types become."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Integer, MetaData
from sqlalchemy.orm import DeclarativeBase

RowNumber = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column that is an INTEGER and nothing else."""
JsonObject = dict[str, Any]


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can name them as well."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {int: BigInteger, JsonObject: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's interface
