"""What people look at: report, page, dashboards."""
