"""What people look at: report pages, charts, timelines, videos."""
